import type { FastifyReply, FastifyRequest } from 'fastify';
import type { DownlinkError } from '../devices/downlink-error.ts';
import type { ApiParts } from './api-parts.ts';
import { octetsOf } from './json-body.ts';
import { downlinkErrorOf, errorHandler, STATUS_OF } from './problem.ts';

/** What a device sends by HTTP and is refused is counted and kept among its rejects, as over MQTT, before it is told. */
export function deviceErrorHandler(parts: Pick<ApiParts, 'rejects' | 'metrics' | 'limits' | 'log'>) {
  const answer = errorHandler(parts);
  return async (thrown: Error, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const error = downlinkErrorOf(thrown);
    const { device, method } = request;
    if (device !== undefined && method === 'POST' && STATUS_OF[error.code] < 500) {
      await keepReject(parts, device.id, { where: request.url, body: octetsOf(request) }, error);
    }
    return answer(thrown, request, reply);
  };
}

/** Counts and keeps one refusal of something that a device sent by HTTP. */
export async function keepReject(
  { rejects, metrics, log }: Pick<ApiParts, 'rejects' | 'metrics' | 'log'>,
  deviceId: string,
  from: { readonly where: string; readonly body: Uint8Array },
  error: DownlinkError,
): Promise<void> {
  metrics.rejects.inc({ transport: 'http', code: error.code });
  try {
    await rejects.keep(deviceId, { transport: 'http', ...from }, error);
  } catch (failure) {
    // The device is to be told all the same: what it sent will not be taken however often it comes.
    log.warn(`a reject of ${deviceId} could not be kept: ${(failure as Error).message}`);
  }
}
