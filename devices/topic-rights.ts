import { coversFilter, matchesFilter, overlapsFilter } from './topic-filter.ts';

/**
 * What a program may do over MQTT: rules by topic filter. What no `allow` covers is refused, and what a `deny` touches is refused whatever
 * allows it. A rule that names neither way is for both.
 */
export type TopicRule = {
  readonly filter: string;
  readonly publish?: boolean;
  readonly subscribe?: boolean;
};

export type TopicRights = { readonly allow: readonly TopicRule[]; readonly deny?: readonly TopicRule[] };

type Way = 'publish' | 'subscribe';

/** Topics that devices and the server publish to; programs never do, whatever their rights say. */
export function isReservedTopic(topic: string): boolean {
  return topic === 'devices' || topic.startsWith('devices/') || topic.startsWith('$');
}

export function mayPublish(rights: TopicRights, topic: string): boolean {
  return !isReservedTopic(topic) && isAllowed(rights, 'publish', topic);
}

/** Refuses a filter that could match more than one rule allows, or anything that is denied. */
export function maySubscribe({ allow, deny = [] }: TopicRights, filter: string): boolean {
  return (
    allow.some((rule) => isFor(rule, 'subscribe') && coversFilter(rule.filter, filter)) &&
    !deny.some((rule) => isFor(rule, 'subscribe') && overlapsFilter(rule.filter, filter))
  );
}

/** Whether a message to `topic` may go to the program: rights may have changed since it subscribed. */
export function mayReceive(rights: TopicRights, topic: string): boolean {
  return isAllowed(rights, 'subscribe', topic);
}

function isAllowed({ allow, deny = [] }: TopicRights, way: Way, topic: string): boolean {
  const isMet = (rule: TopicRule): boolean => isFor(rule, way) && matchesFilter(rule.filter, topic);
  return allow.some(isMet) && !deny.some(isMet);
}

function isFor(rule: TopicRule, way: Way): boolean {
  return (rule.publish === undefined && rule.subscribe === undefined) || rule[way] === true;
}
