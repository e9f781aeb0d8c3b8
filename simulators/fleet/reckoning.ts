import { isDeepStrictEqual } from 'node:util';
import { END_STATES, type CommandState, type EndState } from '../../devices/command.ts';
import type { JsonValue } from '../../devices/json.ts';
import type { Facts, Issued } from './ledger.ts';

/**
 * The reckoning: does every command stand where its device says it must? Pure, so that it can be trusted.
 *
 * A device that gave its word, and had it acknowledged, must find that word on record, with the same result. A command that its
 * device never got may only have expired, been superseded or proved undeliverable; one that was never reported, timed out.
 */
export type Reckoning = {
  readonly issued: number;
  /** By state: how many had to end so, and how many did. */
  readonly states: { readonly state: CommandState; readonly expected: number; readonly found: number }[];
  readonly executedTwice: readonly string[];
  readonly mismatches: readonly Mismatch[];
  /** The device's word came after the command had ended otherwise, and was taken. */
  readonly late: number;
  readonly clean: boolean;
};

export type Mismatch = { readonly id: string; readonly deviceId: string; readonly name: string; readonly what: string };

export type Found = { readonly state: CommandState; readonly result?: JsonValue; readonly late?: boolean };

type IssuedFacts = Facts & { readonly issued: Issued };

/** The ends that a command may have, the likeliest first. `replaced`: a newer one with its key was issued. */
export function expectedEnds(facts: IssuedFacts, replaced: boolean): EndState[] {
  const { word, issued } = facts;
  if (facts.cancelled === 'yes') return ['cancelled'];
  const ends: EndState[] = [];
  if (word !== undefined) {
    ends.push(word.state);
    // It ended with the confirmation; the word that came after it changes nothing.
    if (issued.confirm === 'delivery') ends.push('succeeded');
    if (!facts.wordTaken) ends.push('timed_out', 'expired', 'undeliverable');
  } else if (facts.received > 0) {
    ends.push('timed_out');
    if (issued.confirm === 'delivery') ends.push('succeeded');
    if (!facts.anyReportTaken) ends.push('expired', 'undeliverable');
  } else {
    if (issued.mayExpire) ends.push('expired');
    ends.push('undeliverable');
  }
  if (replaced) ends.push('superseded');
  if (facts.cancelled === 'unknown') ends.push('cancelled');
  return ends;
}

/** True when nothing more is to come: the server shows an end that fits what the device knows. */
export function isSettled(facts: IssuedFacts, replaced: boolean): boolean {
  if (facts.seen === undefined) return false;
  // A word to come, or on its way, may still change how the command stands.
  const isBegun = facts.word !== undefined || facts.executions > 0;
  if (isBegun && !facts.wordTaken && !facts.silent) return false;
  return (expectedEnds(facts, replaced) as CommandState[]).includes(facts.seen);
}

/** Ids of the commands whose key a newer one of the same device took over. Ids are in issue order. */
export function replacedCommands(all: Iterable<IssuedFacts>): Set<string> {
  const newest = new Map<string, string>();
  const replaced = new Set<string>();
  for (const { id, issued } of all) {
    if (issued.key === undefined) continue;
    const slot = `${issued.deviceId} ${issued.key}`;
    const other = newest.get(slot);
    if (other === undefined || other < id) newest.set(slot, id);
    if (other !== undefined) replaced.add(other < id ? other : id);
  }
  return replaced;
}

/** `found`: what the server says in the end, by command id. */
export function reckon(all: Iterable<IssuedFacts>, found: ReadonlyMap<string, Found>): Reckoning {
  const commands = [...all];
  const replaced = replacedCommands(commands);
  const expected = new Map<CommandState, number>();
  const actual = new Map<CommandState, number>();
  const mismatches: Mismatch[] = [];
  const executedTwice: string[] = [];
  let late = 0;
  for (const facts of commands) {
    const { id, issued, word } = facts;
    const ends = expectedEnds(facts, replaced.has(id));
    const end = found.get(id);
    const fits = end !== undefined && (ends as CommandState[]).includes(end.state);
    count(expected, fits ? end.state : (ends[0] ?? 'succeeded'));
    if (end !== undefined) count(actual, end.state);
    if (end?.late) late += 1;
    if (facts.executions > 1) executedTwice.push(id);
    const about = { id, deviceId: issued.deviceId, name: issued.name };
    if (!fits)
      mismatches.push({
        ...about,
        what: `must be ${ends.join(' or ')}, is ${end?.state ?? 'not to be found'}${knowledge(facts)}`,
      });
    else if (end.state === word?.state && issued.confirm === 'result' && !isDeepStrictEqual(end.result, word.result)) {
      mismatches.push({
        ...about,
        what: `must have the result ${JSON.stringify(word.result)}, has ${JSON.stringify(end.result)}`,
      });
    }
  }
  const states = ([...END_STATES, 'queued', 'sent', 'delivered', 'running'] as const)
    .map((state) => ({ state, expected: expected.get(state) ?? 0, found: actual.get(state) ?? 0 }))
    .filter((row) => row.expected > 0 || row.found > 0);
  const clean = mismatches.length === 0 && executedTwice.length === 0;
  return { issued: commands.length, states, executedTwice, mismatches, late, clean };
}

function knowledge(facts: Facts): string {
  const word = facts.word === undefined ? 'no word' : `word ${facts.word.state}${facts.wordTaken ? ', taken' : ', not taken'}`;
  return ` (came ${facts.received} times, executed ${facts.executions}, ${word}${facts.refused === undefined ? '' : `, refused: ${facts.refused}`})`;
}

function count(counts: Map<CommandState, number>, state: CommandState): void {
  counts.set(state, (counts.get(state) ?? 0) + 1);
}
