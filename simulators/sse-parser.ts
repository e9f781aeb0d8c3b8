export type SseEvent = { readonly name: string; readonly data: string; readonly id: string | undefined };

/** Reads server-sent events from text that comes in pieces (WHATWG HTML, 9.2.6). `onPlace` gets the ids of events that carry nothing but a place to resume from. */
export function sseParser(onEvent: (event: SseEvent) => void, onPlace: (id: string) => void = () => {}): (text: string) => void {
  let rest = '';
  let name = '';
  let data: string[] = [];
  let id: string | undefined;
  let hasId = false;

  const line = (text: string) => {
    if (text === '') {
      if (data.length > 0) onEvent({ name: name === '' ? 'message' : name, data: data.join('\n'), id });
      else if (hasId && id !== undefined) onPlace(id);
      hasId = false;
      name = '';
      data = [];
      return;
    }
    const colon = text.indexOf(':');
    const field = colon === -1 ? text : text.slice(0, colon);
    const value = colon === -1 ? '' : text.slice(colon + 1).replace(/^ /, '');
    if (field === 'event') name = value;
    else if (field === 'data') data.push(value);
    else if (field === 'id' && !value.includes('\0')) {
      id = value;
      hasId = true;
    }
  };

  return (text) => {
    // A CR at the very end may be half of a CRLF.
    const whole = rest + text;
    const lines = whole.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    lines.forEach(line);
  };
}
