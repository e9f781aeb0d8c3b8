import type { FastifySchemaCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { DownlinkError } from '../devices/downlink-error.ts';

/**
 * Checks requests against the schema beside their route. Bodies are taken as they are; of query strings, whose values are all text, numbers
 * and booleans are read and a lone value becomes a list where one is asked for. Throws nothing: Fastify is given the refusal.
 */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  if (httpPart === 'headers' && takesAnyText(schema)) return () => true;
  const validator = Compile(schema);
  const read = httpPart === 'querystring' ? queryReader(schema) : (given: unknown) => given;
  const root = ROOTS[httpPart ?? 'body'] ?? '';
  const isNothingFine = httpPart === 'querystring' && validator.Check({});
  return (given: unknown) => {
    if (isNothingFine && isEmpty(given)) return true;
    const value = read(given);
    return validator.Check(value) ? { value } : { error: refusal(validator.Errors(value), schema, root) };
  };
};

/** For routes that decode their body themselves: its schema is for the documentation. */
export const bodyDecodedByRoute: FastifySchemaCompiler<TSchema> = (route) =>
  route.httpPart === 'body' ? () => true : validatorCompiler(route);

const ROOTS: Readonly<Record<string, string>> = { body: '', headers: '', querystring: 'query', params: 'path' };

type Fault = ReturnType<ReturnType<typeof Compile>['Errors']>[number];

/** What a schema is, as far as it is looked at here. */
type SchemaNode = {
  type?: unknown;
  description?: string;
  properties?: Record<string, SchemaNode>;
  required?: readonly string[];
};

/** Headers are text in any case: where nothing else is asked of them, looking is for nothing. */
function takesAnyText(schema: TSchema): boolean {
  const { properties = {}, required = [] } = schema as SchemaNode;
  return (
    required.length === 0 &&
    Object.values(properties).every((node) => node.type === 'string' && Object.keys(node).every((rule) => TEXT_RULES.has(rule)))
  );
}

const TEXT_RULES = new Set(['type', 'description']);

function queryReader(schema: TSchema): (given: unknown) => unknown {
  const types = Object.entries((schema as SchemaNode).properties ?? {}).map(([name, node]) => [name, node.type] as const);
  return (given) => {
    if (typeof given !== 'object' || given === null) return given;
    const query: Record<string, unknown> = { ...given };
    for (const [name, type] of types) {
      const value = query[name];
      if (typeof value !== 'string') continue;
      if (type === 'array') query[name] = [value];
      else if (type === 'integer' && /^-?\d{1,15}$/.test(value)) query[name] = Number(value);
      else if (type === 'boolean' && (value === 'true' || value === 'false')) query[name] = value === 'true';
    }
    return query;
  };
}

function isEmpty(given: unknown): boolean {
  for (const _ in given as object) return false;
  return true;
}

function refusal(faults: readonly Fault[], schema: TSchema, root: string): DownlinkError {
  const fault = tellingFault(faults);
  const { at, rule } = described(fault, schema, root);
  return new DownlinkError('invalid_request', at === '' ? `the body ${rule}` : `${at} ${rule}`, at === '' ? {} : { at });
}

/** The fault to tell: of alternatives, the one of the branch that came nearest. */
function tellingFault(all: readonly Fault[]): Fault {
  const faults = all.filter(({ keyword }) => keyword !== 'boolean');
  const choice = faults.find(({ keyword }) => keyword === 'anyOf');
  const [first] = faults;
  if (first === undefined) throw new Error('bug: a value was refused without a fault');
  if (choice === undefined) return first;
  const branches = new Map<string, Fault[]>();
  const inBranch = `${choice.schemaPath}/anyOf/`;
  for (const fault of faults) {
    if (!fault.schemaPath.startsWith(inBranch)) continue;
    const [branch = ''] = fault.schemaPath.slice(inBranch.length).split('/', 1);
    branches.set(branch, [...(branches.get(branch) ?? []), fault]);
  }
  const [nearest, next] = [...branches.values()].toSorted(byNearness);
  if (nearest?.[0] === undefined) return choice;
  return next !== undefined && byNearness(nearest, next) === 0 ? choice : nearest[0];
}

/** Fewer faults are nearer, and of as many those that lie deeper. */
function byNearness(a: readonly Fault[], b: readonly Fault[]): number {
  const depthOf = (faults: readonly Fault[]): number => pathOf(faults[0]?.instancePath ?? '').length;
  return a.length - b.length || depthOf(b) - depthOf(a);
}

function described(fault: Fault, schema: TSchema, root: string): { at: string; rule: string } {
  const path = pathOf(fault.instancePath);
  const at = (...more: readonly string[]): string => dotted([root, ...path, ...more]);
  const description = nodeAt(schema, fault.schemaPath)?.description;
  switch (fault.keyword) {
    case 'additionalProperties': {
      const [name = ''] = fault.params.additionalProperties;
      return { at: at(name), rule: root === 'query' ? 'is not a parameter of this route' : 'is not a field that goes here' };
    }
    case 'required': {
      const [name = ''] = fault.params.requiredProperties;
      return { at: at(name), rule: 'is required' };
    }
    case 'enum':
      return { at: at(), rule: `is one of ${fault.params.allowedValues.join(', ')}` };
    case 'anyOf':
    case 'pattern':
      return { at: at(), rule: description === undefined ? fault.message : `is not what goes here: ${description}` };
    default:
      return { at: at(), rule: fault.message };
  }
}

/** `/labels/a~1b` as its parts. */
function pathOf(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/** Parts as a path for people: `labels.site`, `items[3].name`. Long names are cut. */
function dotted(parts: readonly string[]): string {
  let text = '';
  for (const part of parts) {
    if (part === '') continue;
    if (/^\d+$/.test(part) && text !== '') text += `[${part}]`;
    else text += (text === '' ? '' : '.') + part.slice(0, 80);
  }
  return text;
}

function nodeAt(schema: TSchema, schemaPath: string): SchemaNode | undefined {
  let node: unknown = schema;
  for (const part of pathOf(schemaPath)) node = (node as Record<string, unknown> | undefined)?.[part];
  return node as SchemaNode | undefined;
}
