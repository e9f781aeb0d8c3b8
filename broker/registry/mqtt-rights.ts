import { Type, type Static } from 'typebox';
import { DownlinkError } from '../../devices/downlink-error.ts';
import { filterFault } from '../../devices/topic-filter.ts';
import { isReservedTopic } from '../../devices/topic-rights.ts';

/** The rights that a key may be given for MQTT, as they are asked for (what they mean is in devices/topic-rights.ts). */
const FILTER_CHARS_MAX = 512;
const RULES_MAX = 64;

const ruleSchema = Type.Object(
  {
    filter: Type.String({ minLength: 1, maxLength: FILTER_CHARS_MAX, description: 'An MQTT topic filter: a/b, a/+, a/#' }),
    publish: Type.Optional(Type.Boolean()),
    subscribe: Type.Optional(Type.Boolean()),
  },
  { additionalProperties: false },
);

export const mqttRightsSchema = Type.Object(
  {
    allow: Type.Array(ruleSchema, { maxItems: RULES_MAX }),
    deny: Type.Optional(Type.Array(ruleSchema, { maxItems: RULES_MAX, description: 'Refused, whatever `allow` says' })),
  },
  {
    additionalProperties: false,
    description:
      'What the key may do over MQTT (username: its id, password: its secret), by topic filter; without it, no login there. A rule that names neither ' +
      '`publish` nor `subscribe` is for both. Nothing may be published under `devices/` or to topics that begin with `$`',
  },
);

export type MqttRights = Static<typeof mqttRightsSchema>;

/** Throws `invalid_request` with the place of the rule that has no filter, or would let programs publish where only devices may. */
export function assertMqttRights({ allow, deny = [] }: MqttRights): void {
  for (const [list, rules] of Object.entries({ allow, deny })) {
    for (const [i, { filter, publish, subscribe }] of rules.entries()) {
      const at = `mqtt.${list}[${i}].filter`;
      const fault = filterFault(filter);
      if (fault !== undefined) throw new DownlinkError('invalid_request', `${at} ${fault}`, { at });
      const isForPublish = publish ?? subscribe === undefined;
      if (list === 'deny' || !isForPublish || !isReservedTopic(filter)) continue;
      const message = `${at}: programs may not publish under devices/ or to topics that begin with $; "subscribe": true alone is fine`;
      throw new DownlinkError('invalid_request', message, { at });
    }
  }
}
