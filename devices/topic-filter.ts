/** MQTT topic names and topic filters (MQTT 3.1.1, 4.7): what is one, what a filter matches, and how two filters lie to each other. */

/** A lone half of a surrogate pair: no character, and not to be had in UTF-8 [MQTT-1.5.3-1]. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/** What makes `topic` none that can be published to [MQTT-3.3.2-2] [MQTT-4.7.3-1] [MQTT-4.7.3-2]; undefined when it is one. */
export function topicFault(topic: string): string | undefined {
  if (topic.includes('+') || topic.includes('#')) return 'has a wildcard';
  return textFault(topic);
}

/** What makes `filter` no topic filter [MQTT-4.7.1-2] [MQTT-4.7.1-3] [MQTT-4.7.3-1] [MQTT-4.7.3-2]; undefined when it is one. */
export function filterFault(filter: string): string | undefined {
  if (filter.includes('+') || filter.includes('#')) {
    const levels = filter.split('/');
    for (const [i, level] of levels.entries()) {
      if (level.includes('+') && level !== '+') return 'has a + that is not a level by itself';
      if (level.includes('#') && (level !== '#' || i !== levels.length - 1))
        return 'has a # that is not the last level by itself';
    }
  }
  return textFault(filter);
}

function textFault(text: string): string | undefined {
  if (text === '') return 'is empty';
  if (text.includes('\0') || LONE_SURROGATE.test(text)) return 'has a character that MQTT does not allow';
  return undefined;
}

/** Topics that begin with `$` are matched by no filter that begins with a wildcard [MQTT-4.7.2-1]. */
function isHiddenFrom(filterLevel: string | undefined, level: string | undefined): boolean {
  return (filterLevel === '+' || filterLevel === '#') && level?.startsWith('$') === true;
}

/** Whether messages to `topic`, a name without wildcards, go to who subscribes to `filter`. */
export function matchesFilter(filter: string, topic: string): boolean {
  return coversFilter(filter, topic);
}

/** Whether all that `narrow` matches is matched by `wide`. Filters that only together cover `narrow` are not looked for. */
export function coversFilter(wide: string, narrow: string): boolean {
  const [a, b] = [wide.split('/'), narrow.split('/')];
  if (isHiddenFrom(a[0], b[0])) return false;
  for (let i = 0; i < a.length; i += 1) {
    // `a/#` matches `a` as well.
    if (a[i] === '#') return true;
    if (i >= b.length || b[i] === '#') return false;
    if (a[i] !== '+' && a[i] !== b[i]) return false;
  }
  return a.length === b.length;
}

/** Whether there is a topic that both match. */
export function overlapsFilter(one: string, other: string): boolean {
  const [a, b] = [one.split('/'), other.split('/')];
  if (isHiddenFrom(a[0], b[0]) || isHiddenFrom(b[0], a[0])) return false;
  for (let i = 0; i < Math.max(a.length, b.length); i += 1) {
    if (a[i] === '#' || b[i] === '#') return true;
    if (i >= a.length || i >= b.length) return false;
    if (a[i] !== '+' && b[i] !== '+' && a[i] !== b[i]) return false;
  }
  return true;
}
