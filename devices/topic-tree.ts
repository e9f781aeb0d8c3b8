/**
 * Values by topic or topic filter, in a tree of levels: finding those of one topic among many filters, and those of one filter among many
 * topics, costs what the levels have, not what the tree has.
 */
type Node<V> = { readonly below: Map<string, Node<V>>; readonly values: Set<V> };

export class TopicTree<V> {
  readonly #root: Node<V> = newNode();

  add(path: string, value: V): void {
    let node = this.#root;
    for (const level of path.split('/')) {
      let next = node.below.get(level);
      if (next === undefined) {
        next = newNode();
        node.below.set(level, next);
      }
      node = next;
    }
    node.values.add(value);
  }

  delete(path: string, value: V): void {
    const levels = path.split('/');
    const nodes = [this.#root];
    for (const level of levels) {
      const next = nodes.at(-1)?.below.get(level);
      if (next === undefined) return;
      nodes.push(next);
    }
    nodes.at(-1)?.values.delete(value);
    for (let i = levels.length; i > 0; i -= 1) {
      const node = nodes[i];
      if (node === undefined || node.values.size > 0 || node.below.size > 0) return;
      nodes[i - 1]?.below.delete(levels[i - 1] ?? '');
    }
  }

  /** The tree holds filters: the values of those that match `topic`. */
  ofTopic(topic: string): V[] {
    const levels = topic.split('/');
    const found: V[] = [];
    const visit = (node: Node<V>, at: number): void => {
      const isHidden = at === 0 && topic.startsWith('$');
      if (!isHidden) take(node.below.get('#'));
      if (at === levels.length) return take(node);
      const next = node.below.get(levels[at] ?? '');
      if (next !== undefined) visit(next, at + 1);
      const any = isHidden ? undefined : node.below.get('+');
      if (any !== undefined) visit(any, at + 1);
    };
    const take = (node: Node<V> | undefined): void => {
      if (node !== undefined) found.push(...node.values);
    };
    visit(this.#root, 0);
    return found;
  }

  /** The tree holds topics: the values of those that `filter` matches. */
  ofFilter(filter: string): V[] {
    const levels = filter.split('/');
    const found: V[] = [];
    const visit = (node: Node<V>, at: number): void => {
      const level = levels[at];
      if (level === undefined) found.push(...node.values);
      else if (level === '#') takeAll(node, at === 0);
      else if (level === '+') {
        for (const [name, next] of node.below) if (at > 0 || !name.startsWith('$')) visit(next, at + 1);
      } else {
        const next = node.below.get(level);
        if (next !== undefined) visit(next, at + 1);
      }
    };
    const takeAll = (node: Node<V>, isFirst: boolean): void => {
      found.push(...node.values);
      for (const [name, next] of node.below) if (!isFirst || !name.startsWith('$')) takeAll(next, false);
    };
    visit(this.#root, 0);
    return found;
  }
}

function newNode<V>(): Node<V> {
  return { below: new Map(), values: new Set() };
}
