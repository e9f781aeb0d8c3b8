import { TopicTree } from '../../../devices/topic-tree.ts';

/** Who subscribes to what: by client, and by topic. */
export type Subscribed = {
  readonly topic: string;
  readonly qos: number;
  readonly rh?: number | undefined;
  readonly rap?: boolean | undefined;
  readonly nl?: boolean | undefined;
};
export type ClientSubscription = Subscribed & { readonly clientId: string };

type Held = { readonly given: Subscribed; readonly subscribed: ClientSubscription };

export class Subscriptions {
  readonly #byClient = new Map<string, Map<string, Held>>();
  readonly #byTopic = new TopicTree<ClientSubscription>();
  #withQos = 0;

  /** How many clients have subscriptions. */
  get clients(): number {
    return this.#byClient.size;
  }

  /** How many subscriptions have QoS 1 or 2. */
  get withQos(): number {
    return this.#withQos;
  }

  add(clientId: string, subscription: Subscribed): void {
    const given = { ...subscription };
    const subscribed: ClientSubscription = { clientId, ...given };
    this.remove(clientId, subscription.topic);
    const own = this.#byClient.get(clientId) ?? new Map<string, Held>();
    this.#byClient.set(clientId, own.set(subscription.topic, { given, subscribed }));
    this.#byTopic.add(subscription.topic, subscribed);
    if (subscribed.qos > 0) this.#withQos += 1;
  }

  remove(clientId: string, topic: string): void {
    const own = this.#byClient.get(clientId);
    const subscribed = own?.get(topic)?.subscribed;
    if (own === undefined || subscribed === undefined) return;
    own.delete(topic);
    if (own.size === 0) this.#byClient.delete(clientId);
    this.#byTopic.delete(topic, subscribed);
    if (subscribed.qos > 0) this.#withQos -= 1;
  }

  removeAll(clientId: string): void {
    for (const { topic } of this.of(clientId)) this.remove(clientId, topic);
  }

  of(clientId: string): Subscribed[] {
    return [...(this.#byClient.get(clientId)?.values() ?? [])].map(({ given }) => given);
  }

  count(clientId: string): number {
    return this.#byClient.get(clientId)?.size ?? 0;
  }

  has(clientId: string, topic: string): boolean {
    return this.#byClient.get(clientId)?.has(topic) ?? false;
  }

  matching(topic: string): ClientSubscription[] {
    return this.#byTopic.ofTopic(topic);
  }

  /** Clients that subscribe to just this filter. */
  clientsOf(topic: string): string[] {
    return [...this.#byClient].filter(([, own]) => own.has(topic)).map(([clientId]) => clientId);
  }
}
