import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { coversFilter, filterFault, matchesFilter, overlapsFilter, topicFault } from '../devices/topic-filter.ts';
import { mayPublish, mayReceive, maySubscribe } from '../devices/topic-rights.ts';
import { TopicTree } from '../devices/topic-tree.ts';

const level = fc.constantFrom('a', 'b', '', '$s');
const topic = fc
  .array(level, { minLength: 1, maxLength: 4 })
  .map((levels) => levels.join('/'))
  .filter((text) => text !== '');
const filter = fc
  .tuple(fc.array(fc.oneof(level, fc.constant('+')), { maxLength: 3 }), fc.constantFrom('a', 'b', '+', '#'))
  .map(([levels, last]) => [...levels, last].join('/'));

describe('a topic filter', () => {
  test.each([
    ['sport/tennis/#', ['sport/tennis', 'sport/tennis/a', 'sport/tennis/a/b'], ['sport', 'sport/tenniss']],
    ['#', ['a', 'a/b', '/', '/a'], ['$SYS', '$SYS/a']],
    ['+', ['a'], ['/a', 'a/b', '$SYS']],
    ['/+', ['/a', '/'], ['a']],
    ['+/+', ['/a', 'a/b', '/'], ['a', '$SYS/a']],
    ['a/+/c', ['a/b/c', 'a//c'], ['a/c', 'a/b/b/c']],
    ['$SYS/#', ['$SYS', '$SYS/a'], ['a']],
    ['a/b', ['a/b'], ['a/B', 'a/b/', '/a/b']],
  ])('%s matches what MQTT says', (text, matched, others) => {
    for (const name of matched) expect([name, matchesFilter(text, name)]).toEqual([name, true]);
    for (const name of others) expect([name, matchesFilter(text, name)]).toEqual([name, false]);
  });

  test.each(['a#', '#a', '#/a', 'a/#/b', 'a+', '+a', 'a/b+/c', '', 'a\0', 'a/\ud800', '##', '++'])('%j is none', (text) => {
    expect(filterFault(text)).toBeDefined();
  });

  test.each(['a', '/', '//', '+', '#', '+/#', '/+/', 'a b', 'é/🚀', '$SYS/#', ' '])('%j is one', (text) => {
    expect(filterFault(text)).toBeUndefined();
  });

  test('that covers another matches all its topics, and overlaps with it where both match one', () => {
    fc.assert(
      fc.property(filter, filter, topic, (one, other, name) => {
        const [byOne, byOther] = [matchesFilter(one, name), matchesFilter(other, name)];
        if (coversFilter(one, other) && byOther) expect(byOne).toBe(true);
        if (byOne && byOther) expect(overlapsFilter(one, other)).toBe(true);
        expect(overlapsFilter(one, other)).toBe(overlapsFilter(other, one));
        expect(coversFilter(one, one)).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });
});

test.each(['a/+', '#', 'a#', '', 'a\0b', '\udfff'])('%j is no topic to publish to', (text) => {
  expect(topicFault(text)).toBeDefined();
});

describe('a tree of topics', () => {
  test('finds the filters of a topic, and the topics of a filter, as one by one', () => {
    fc.assert(
      fc.property(fc.uniqueArray(filter), fc.uniqueArray(topic), topic, filter, (filters, topics, name, wanted) => {
        const [byFilter, byTopic] = [new TopicTree<string>(), new TopicTree<string>()];
        for (const each of filters) byFilter.add(each, each);
        for (const each of topics) byTopic.add(each, each);
        expect(byFilter.ofTopic(name).toSorted()).toEqual(filters.filter((each) => matchesFilter(each, name)).toSorted());
        expect(byTopic.ofFilter(wanted).toSorted()).toEqual(topics.filter((each) => matchesFilter(wanted, each)).toSorted());
        for (const each of filters.slice(1)) byFilter.delete(each, each);
        const left = filters.slice(0, 1).filter((each) => matchesFilter(each, name));
        expect(byFilter.ofTopic(name)).toEqual(left);
      }),
      { numRuns: 1_000 },
    );
  });
});

describe('rights', () => {
  const rights = {
    allow: [{ filter: 'devices/+/telemetry', subscribe: true }, { filter: 'plant/#' }, { filter: 'log/+', publish: true }],
    deny: [{ filter: 'plant/secret/#' }, { filter: 'plant/read-only', publish: true }],
  };

  test('a filter is refused that could match more than is allowed, or anything denied', () => {
    const allowed = ['devices/+/telemetry', 'devices/pump-1/telemetry', 'plant/a/#', 'plant/read-only'];
    const refused = ['devices/#', 'devices/+/+', '#', 'plant/#', 'plant/+/b/c', 'plant/secret', 'log/a', '$SYS/#'];
    expect(allowed.filter((each) => !maySubscribe(rights, each))).toEqual([]);
    expect(refused.filter((each) => maySubscribe(rights, each))).toEqual([]);
  });

  test('nobody publishes below devices/ or $, whatever is allowed', () => {
    expect(['plant/a', 'log/a'].every((each) => mayPublish(rights, each))).toBe(true);
    expect(['plant/secret', 'plant/read-only', 'log/a/b', 'else'].some((each) => mayPublish(rights, each))).toBe(false);
    const all = { allow: [{ filter: '#' }, { filter: '$SYS/#' }, { filter: 'devices/#' }] };
    expect(['devices', 'devices/a/telemetry', '$SYS/a', '$x'].some((each) => mayPublish(all, each))).toBe(false);
    expect(mayPublish(all, 'devicesx/a')).toBe(true);
  });

  test('$SYS is not seen by who may see everything else', () => {
    expect(maySubscribe({ allow: [{ filter: '#' }] }, '$SYS/#')).toBe(false);
    expect(mayReceive({ allow: [{ filter: '#' }] }, '$SYS/a')).toBe(false);
    expect(mayReceive({ allow: [{ filter: '$SYS/#' }] }, '$SYS/a')).toBe(true);
  });
});
