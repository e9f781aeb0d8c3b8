/**
 * Every bound that keeps one client from taking what others need: its name, variable, default and range, and what becomes of who reaches it. The README's
 * table is checked against this one. Reaching one counts in `downlink_bound_reached_total{bound="name"}` and is a line in the log.
 */
export type Bound = {
  readonly variable: string;
  readonly byDefault: number;
  readonly lowest: number;
  readonly highest: number;
  /** Of its line in the log, where reaching it is everyday; `info` when absent. */
  readonly level?: 'info' | 'debug';
  /** What it bounds, and what happens beyond it. */
  readonly text: string;
};

const KIB = 1024;
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

export const BOUNDS = {
  connections: {
    variable: 'DOWNLINK_CONNECTIONS_MAX',
    byDefault: 100_000,
    lowest: 10,
    highest: 10_000_000,
    text: 'Connections open in all; one more is closed at once.',
  },
  connections_per_address: {
    variable: 'DOWNLINK_CONNECTIONS_PER_ADDRESS_MAX',
    byDefault: 20_000,
    lowest: 1,
    highest: 10_000_000,
    text: 'Connections open from one address (IPv6: one /64); one more is closed at once.',
  },
  connects_per_second: {
    variable: 'DOWNLINK_CONNECTS_PER_SECOND_MAX',
    byDefault: 1_000,
    lowest: 1,
    highest: 1_000_000,
    text: 'New connections a second from one address; more are closed at once.',
  },
  wrong_credentials: {
    variable: 'DOWNLINK_WRONG_CREDENTIALS_PER_MINUTE_MAX',
    byDefault: 1_000,
    lowest: 1,
    highest: 1_000_000,
    text: 'Wrong credentials a minute from one address; then logins from it wait (429, CONNACK 3), but for those who have been let in from there before.',
  },
  login_pause: {
    variable: 'DOWNLINK_LOGIN_PAUSE_SECONDS_MAX',
    byDefault: 60,
    lowest: 1,
    highest: 86_400,
    text: 'How long that wait may grow, from 1 s, twice as long each time; one that would be longer counts. (What it refuses counts as `wrong_credentials`.)',
  },
  connect_seconds: {
    variable: 'DOWNLINK_CONNECT_SECONDS_MAX',
    byDefault: 10,
    lowest: 1,
    highest: 600,
    text: 'From the opening of an MQTT connection to its login; then it is closed.',
  },
  connect_bytes: {
    variable: 'DOWNLINK_CONNECT_BYTES_MAX',
    byDefault: 64 * KIB,
    lowest: 256,
    highest: MIB,
    text: 'Octets of an MQTT connection’s first packet, which is CONNECT, and of any WebSocket message before its login; a larger one, or another packet, closes it.',
  },
  packet_bytes: {
    variable: 'DOWNLINK_PACKET_BYTES_MAX',
    byDefault: MIB,
    lowest: KIB,
    highest: 256 * MIB - 1,
    text: 'Octets of an MQTT packet after that, and of a WebSocket message; a larger one closes the connection before it has come in.',
  },
  packet_seconds: {
    variable: 'DOWNLINK_PACKET_SECONDS_MAX',
    byDefault: 60,
    lowest: 1,
    highest: 3_600,
    text: 'From the first to the last octet of an MQTT packet; then the connection is closed.',
  },
  idle_seconds: {
    variable: 'DOWNLINK_IDLE_SECONDS_MAX',
    byDefault: 7_200,
    lowest: 1,
    highest: 604_800,
    text: 'Silence of an MQTT client, whatever its keepalive, 0 as well; then the connection is closed.',
  },
  messages_per_second: {
    variable: 'DOWNLINK_MESSAGES_PER_SECOND_MAX',
    byDefault: 10_000,
    lowest: 1,
    highest: 10_000_000,
    text: 'MQTT packets (and filters of a SUBSCRIBE) a second from one device or program; beyond it the socket is read more slowly.',
  },
  bytes_per_second: {
    variable: 'DOWNLINK_BYTES_PER_SECOND_MAX',
    byDefault: 8 * MIB,
    lowest: KIB,
    highest: GIB,
    text: 'Octets a second from one device, program or key; MQTT is read more slowly, HTTP answers 429.',
  },
  slowed_seconds: {
    variable: 'DOWNLINK_SLOWED_SECONDS_MAX',
    byDefault: 60,
    lowest: 1,
    highest: 86_400,
    text: 'How long an MQTT client may go on sending faster than it is read; then the connection is closed.',
  },
  requests_per_second: {
    variable: 'DOWNLINK_REQUESTS_PER_SECOND_MAX',
    byDefault: 2_000,
    lowest: 1,
    highest: 1_000_000,
    text: 'HTTP requests a second of one device or key; more are answered 429.',
  },
  open_requests_per_second: {
    variable: 'DOWNLINK_OPEN_REQUESTS_PER_SECOND_MAX',
    byDefault: 200,
    lowest: 1,
    highest: 1_000_000,
    text: 'HTTP requests a second from one address for what takes no credential (`/healthz`, `/docs`, unknown paths); more are answered 429.',
  },
  registrations_per_second: {
    variable: 'DOWNLINK_REGISTRATIONS_PER_SECOND_MAX',
    byDefault: 20,
    lowest: 1,
    highest: 1_000_000,
    text: 'Devices a second that register themselves with one fleet key; more are answered 429.',
  },
  header_bytes: {
    variable: 'DOWNLINK_HEADER_BYTES_MAX',
    byDefault: 16 * KIB,
    lowest: KIB,
    highest: MIB,
    text: 'Octets of a request’s headers; more are answered 400 and the connection is closed.',
  },
  header_seconds: {
    variable: 'DOWNLINK_HEADER_SECONDS_MAX',
    byDefault: 15,
    lowest: 1,
    highest: 600,
    text: 'From a request’s first octet to the end of its headers; then 400, and the connection is closed.',
  },
  request_seconds: {
    variable: 'DOWNLINK_REQUEST_SECONDS_MAX',
    byDefault: 30,
    lowest: 1,
    highest: 3_600,
    text: 'From a request’s first octet to its last; then 400, and the connection is closed.',
  },
  answer_seconds: {
    variable: 'DOWNLINK_ANSWER_SECONDS_MAX',
    byDefault: 60,
    lowest: 1,
    highest: 3_600,
    text: 'How long an HTTP answer, or the rest of it, may wait without any of it being read; then its connection is closed (HTTP/2: its stream is reset, and the session ended when nothing leaves it at all). Event streams have `stream_backlog_bytes`.',
  },
  pipelined_requests: {
    variable: 'DOWNLINK_PIPELINED_REQUESTS_MAX',
    byDefault: 64,
    lowest: 1,
    highest: 100_000,
    text: 'HTTP requests of one connection that came before the answers to those before them; one more closes it.',
  },
  http_idle_seconds: {
    variable: 'DOWNLINK_HTTP_IDLE_SECONDS_MAX',
    byDefault: 72,
    lowest: 1,
    highest: 3_600,
    level: 'debug',
    text: 'Silence of an HTTP connection between two requests; then it is closed. (Everyday, so its line in the log is of level `debug`.)',
  },
  body_bytes: {
    variable: 'DOWNLINK_BODY_BYTES_MAX',
    byDefault: 128 * KIB,
    lowest: 64 * KIB,
    highest: 16 * MIB,
    text: 'Octets of an operator’s request body; more are answered 413. (A device’s reports may have 128 KiB, its telemetry 256, its syncs 512; more count here as well.)',
  },
  parked_polls: {
    variable: 'DOWNLINK_PARKED_POLLS_MAX',
    byDefault: 50_000,
    lowest: 0,
    highest: 10_000_000,
    text: 'Long polls that wait, in all; one more is answered 204 at once.',
  },
  parked_polls_per_device: {
    variable: 'DOWNLINK_PARKED_POLLS_PER_DEVICE_MAX',
    byDefault: 4,
    lowest: 1,
    highest: 1_000,
    text: 'Long polls that wait of one device; one more is answered 204 at once.',
  },
  device_streams: {
    variable: 'DOWNLINK_DEVICE_STREAMS_MAX',
    byDefault: 10_000,
    lowest: 0,
    highest: 10_000_000,
    text: 'Event streams of devices, in all; one more is answered 503 `too_many_streams`.',
  },
  device_streams_per_device: {
    variable: 'DOWNLINK_DEVICE_STREAMS_PER_DEVICE_MAX',
    byDefault: 2,
    lowest: 1,
    highest: 1_000,
    text: 'Event streams of one device; with one more the oldest ends.',
  },
  live_streams: {
    variable: 'DOWNLINK_LIVE_STREAMS_MAX',
    byDefault: 2_000,
    lowest: 0,
    highest: 1_000_000,
    text: 'Live streams of operators, in all; one more is answered 503 `too_many_streams`.',
  },
  live_streams_per_key: {
    variable: 'DOWNLINK_LIVE_STREAMS_PER_KEY_MAX',
    byDefault: 1_000,
    lowest: 1,
    highest: 1_000_000,
    text: 'Live streams of one key; one more is answered 503 `too_many_streams`.',
  },
  stream_backlog_bytes: {
    variable: 'DOWNLINK_STREAM_BACKLOG_BYTES_MAX',
    byDefault: 256 * KIB,
    lowest: 16 * KIB,
    highest: GIB,
    text: 'Octets that wait in the socket for a stream that is not read; beyond it commands wait in their queue, and a live stream falls behind (`reset` where it missed too much). That counts each time that it begins to; what is not read for a minute is closed.',
  },
  topic_bytes: {
    variable: 'DOWNLINK_TOPIC_BYTES_MAX',
    byDefault: 4_096,
    lowest: 256,
    highest: 65_535,
    text: 'Octets of a topic or filter; a PUBLISH or a will to a longer one closes the connection, a SUBSCRIBE is refused (0x80).',
  },
  topic_levels: {
    variable: 'DOWNLINK_TOPIC_LEVELS_MAX',
    byDefault: 100,
    lowest: 4,
    highest: 100,
    text: 'Levels of a topic or filter; more close the connection.',
  },
  subscriptions: {
    variable: 'DOWNLINK_SUBSCRIPTIONS_PER_CLIENT_MAX',
    byDefault: 1_000,
    lowest: 3,
    highest: 1_000_000,
    text: 'Subscriptions of one MQTT client; one more is refused (0x80).',
  },
  backlog_bytes: {
    variable: 'DOWNLINK_BACKLOG_BYTES_MAX',
    byDefault: MIB,
    lowest: 16 * KIB,
    highest: GIB,
    text: 'Octets that wait in the socket for an MQTT client that does not read; messages beyond are not sent to it. (A command comes again when its lease lapses; QoS 1 and 2 of a program wait in its queue, and count as one each time that they begin to.)',
  },
  sessions: {
    variable: 'DOWNLINK_SESSIONS_MAX',
    byDefault: 10_000,
    lowest: 1,
    highest: 10_000_000,
    text: 'Persistent sessions of programs on MQTT; one more is refused (CONNACK 3).',
  },
  session_hours: {
    variable: 'DOWNLINK_SESSION_HOURS_MAX',
    byDefault: 168,
    lowest: 1,
    highest: 87_600,
    text: 'Absence after which a persistent session is forgotten, with its subscriptions and what waits for it.',
  },
  in_flight: {
    variable: 'DOWNLINK_IN_FLIGHT_PER_CLIENT_MAX',
    byDefault: 64,
    lowest: 1,
    highest: 65_535,
    level: 'debug',
    text: 'Messages of QoS 1 and 2 that one program has not acknowledged; the rest waits in its queue, and counts as one each time that it begins to. (Everyday, so its line in the log is of level `debug`. A device has eight commands.)',
  },
  received_messages: {
    variable: 'DOWNLINK_RECEIVED_MESSAGES_PER_CLIENT_MAX',
    byDefault: 5_000,
    lowest: 1,
    highest: 65_535,
    text: 'Messages of QoS 2 of one MQTT client that it has sent and not released; one more closes the connection.',
  },
  queued_messages: {
    variable: 'DOWNLINK_QUEUED_MESSAGES_PER_CLIENT_MAX',
    byDefault: 1_000,
    lowest: 1,
    highest: 65_535,
    text: 'Messages of QoS 1 and 2 that wait for one program, in flight or while it is away; the oldest that was not sent makes room.',
  },
  queued_bytes: {
    variable: 'DOWNLINK_QUEUED_BYTES_MAX',
    byDefault: 64 * MIB,
    lowest: MIB,
    highest: 64 * GIB,
    text: 'Their octets, of all programs together; a program’s oldest make room for its newest.',
  },
  retained_messages: {
    variable: 'DOWNLINK_RETAINED_MESSAGES_MAX',
    byDefault: 10_000,
    lowest: 0,
    highest: 10_000_000,
    text: 'Retained messages; one of another topic is delivered and not retained.',
  },
  retained_bytes: {
    variable: 'DOWNLINK_RETAINED_BYTES_MAX',
    byDefault: 64 * MIB,
    lowest: 0,
    highest: 64 * GIB,
    text: 'Their octets; one more is delivered and not retained.',
  },
  operator_keys: {
    variable: 'DOWNLINK_OPERATOR_KEYS_MAX',
    byDefault: 10_000,
    lowest: 1,
    highest: 1_000_000,
    text: 'Operator keys; one more is refused (403 `quota_exhausted`).',
  },
  fleet_keys: {
    variable: 'DOWNLINK_FLEET_KEYS_MAX',
    byDefault: 1_000,
    lowest: 0,
    highest: 1_000_000,
    text: 'Fleet keys; one more is refused (403 `quota_exhausted`).',
  },
  audit_entries: {
    variable: 'DOWNLINK_AUDIT_ENTRIES_MAX',
    byDefault: 20_000,
    lowest: 100,
    highest: 10_000_000,
    text: 'Entries of the audit log, of commands, of refused logins and of all else, each; the oldest make room, many at a time, and stay in History.',
  },
} as const satisfies Record<string, Bound>;

export type BoundName = keyof typeof BOUNDS;
/** The value of each bound, in the unit that its variable names. */
export type Bounds = Readonly<Record<BoundName, number>>;

export const BOUND_NAMES = Object.keys(BOUNDS) as BoundName[];
export type BoundVariable = (typeof BOUNDS)[BoundName]['variable'];
export const BOUND_VARIABLES: readonly BoundVariable[] = BOUND_NAMES.map((name) => BOUNDS[name].variable);

export const DEFAULT_BOUNDS: Bounds = Object.freeze(
  Object.fromEntries(BOUND_NAMES.map((name) => [name, BOUNDS[name].byDefault])) as Record<BoundName, number>,
);

/** `read` gives a variable's text, undefined where it is not set. `fail` throws with the line that it is given, which names the variable. */
export function readBounds(read: (variable: BoundVariable) => string | undefined, fail: (line: string) => never): Bounds {
  const valueOf = (name: BoundName): number => {
    const { variable, byDefault, lowest, highest } = BOUNDS[name];
    const text = read(variable);
    if (text === undefined) return byDefault;
    const value = Number(text);
    if (/^\d{1,15}$/.test(text) && value >= lowest && value <= highest) return value;
    return fail(`${variable} is a whole number from ${lowest} to ${highest}, not "${text}"`);
  };
  return Object.freeze(Object.fromEntries(BOUND_NAMES.map((name) => [name, valueOf(name)])) as Record<BoundName, number>);
}
