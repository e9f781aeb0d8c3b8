/** Text that means something to InfluxDB, to a log or to a terminal, wherever text is taken: it comes back as it was, and does nothing else. */
const TIME = '1';
export const TEXTS = [
  'two\nlines',
  'two\r\nlines\r',
  `"\ntelemetry,device=healthy planted=1 ${TIME}\n`,
  `x" ${TIME}\ncommand,device=healthy,name=planted id="planted",state="queued" ${TIME}\ntelemetry,device=healthy planted="`,
  `\\" ${TIME}\naudit,action=planted actor="x`,
  'comma, equals=, space ',
  'ends with \\',
  '\\\\\\"',
  '"',
  "'",
  "healthy' OR '1'='1",
  "'; DROP DATABASE downlink; --",
  '"; DROP MEASUREMENT telemetry; SELECT "x',
  '/.*/',
  '\u0000\u0001\u0008\u001b[31mred\u007f',
  '\u0085\u009b31m',
  '\u2028\u2029',
  '\u202ethgir\u2066left\u200f\u061c',
  '\u{1f600}\ufffd\uffff',
  '\ufeffmarks\ufeff',
  '{"level":60,"msg":"planted"}',
  '__proto__',
  '%s%n$(id)`id`${id}',
];
/** What no log line may hold as it is. */
export const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u;
