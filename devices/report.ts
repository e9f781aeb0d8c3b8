import { MESSAGE_CHARS_MAX, RESULT_BYTES_MAX } from './command.ts';
import { DownlinkError } from './downlink-error.ts';
import { infiniteAt, type JsonValue } from './json.ts';

export const REPORT_STATES = ['running', 'succeeded', 'failed', 'rejected'] as const;
export type ReportState = (typeof REPORT_STATES)[number];

/** What a device says came of a command: `{"state","result"?,"progress"?,"message"?}`. */
export type Report = {
  readonly state: ReportState;
  readonly result?: JsonValue;
  /** 0..100, with `running`. */
  readonly progress?: number;
  readonly message?: string;
};

const FIELDS = new Set(['state', 'result', 'progress', 'message']);

/** Checks a decoded report. Throws `invalid_report` with the field at fault. */
export function parseReport(value: unknown): Report {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new DownlinkError('invalid_report', 'a report is an object such as {"state":"succeeded"}');
  }
  const given = value as Record<string, unknown>;
  for (const field of Object.keys(given)) {
    if (!FIELDS.has(field)) throw fault(field, `is not a field of a report; it has ${[...FIELDS].join(', ')}`);
  }
  const { state, result, progress, message } = given;
  if (!REPORT_STATES.includes(state as ReportState)) throw fault('state', `is one of ${REPORT_STATES.join(', ')}`);
  if (progress !== undefined && !(typeof progress === 'number' && progress >= 0 && progress <= 100)) {
    throw fault('progress', 'is a number from 0 to 100');
  }
  if (message !== undefined && !(typeof message === 'string' && message.length <= MESSAGE_CHARS_MAX)) {
    throw fault('message', `is a string of at most ${MESSAGE_CHARS_MAX} characters`);
  }
  if (result !== undefined && Buffer.byteLength(JSON.stringify(result)) > RESULT_BYTES_MAX) {
    throw fault('result', `takes at most ${RESULT_BYTES_MAX} bytes as JSON`);
  }
  const infinite = infiniteAt(result, 'result');
  if (infinite !== undefined) throw fault(infinite.slice(0, 80), 'is not a finite number');
  return {
    state: state as ReportState,
    ...(result !== undefined && { result: result as JsonValue }),
    ...(progress !== undefined && { progress: progress }),
    ...(message !== undefined && { message: message }),
  };
}

function fault(field: string, rule: string): DownlinkError {
  return new DownlinkError('invalid_report', `${field} ${rule}`, { at: field });
}
