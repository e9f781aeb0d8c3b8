/**
 * Every code that Downlink answers with, over HTTP (`code` of a problem document) or MQTT (`devices/{id}/errors`).
 * Codes are stable; the texts are for people and free to change. The README's table is checked against this one.
 */
export const ERROR_CODES = {
  invalid_request: 'A field, parameter or header is missing, of the wrong type or out of range; the message names it.',
  invalid_json: 'The body is not JSON (or CBOR, if it says so), is nested too deeply, or is not valid UTF-8.',
  invalid_telemetry: 'A telemetry message breaks a rule; nothing of it was stored. The message names the place.',
  invalid_report: 'A report breaks a rule; the message names the field.',
  invalid_cursor: 'The cursor is not one of ours; start again without it.',
  body_too_large: 'The body is larger than this route takes.',
  unsupported_media_type: 'The content type is not one this route reads.',
  unauthorized: 'No credential, or one that is unknown, expired or revoked.',
  forbidden: 'The credential is good, but its role or its device may not do this.',
  quota_exhausted: 'As many of these are there as may be; it will not do to try again.',
  not_found: 'No such route.',
  unknown_device: 'No device has this id.',
  unknown_command: 'No command has this id, or it belongs to another device.',
  unknown_key: 'No key has this id.',
  foreign_topic: 'A device may publish and subscribe to its own topics alone.',
  unknown_topic: 'The topic is none of those a device may publish to.',
  device_exists: 'A device with this id is already registered.',
  command_finished: 'The command has already ended in another way; its state stands.',
  command_delivered: 'The device already has the command; cancel it with force.',
  idempotency_conflict: 'The Idempotency-Key was used before with another body.',
  last_admin_key: 'The last admin key without an end can neither be revoked nor be given an end or another role.',
  queue_full: 'The device has as many open commands as it may have; wait, or cancel some.',
  rate_limited: 'Too many requests in a short time; wait as long as Retry-After says.',
  expires_before_next_wake: 'The command would expire before the device next wakes; extend it, or use force.',
  journal_full: 'The journal is at its bound because History is behind; try again later.',
  history_unavailable: 'The History store (InfluxDB) cannot be reached; commands and telemetry are still taken.',
  identity_provider_unavailable: 'The identity provider cannot be reached, so its tokens cannot be checked; keys still work.',
  storage_unavailable: 'The data folder cannot be written; nothing was acknowledged.',
  shutting_down: 'The server is stopping; try again in a moment.',
  too_many_streams: 'As many live streams are open as the server allows.',
  internal: 'A fault of the server; it is logged.',
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;
