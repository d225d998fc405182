// The house rules of src/ as pure functions over source texts: floors, cycles, files. Each returns sentences, one a breach.
// Reads import lines only, no compiler: a rule that a person can check by eye.
import { posix } from 'node:path';

/** Path from the repository's root (`src/kvm/vm-fd.ts`) → text. */
export type Sources = ReadonlyMap<string, string>;

interface Floor {
  readonly number: number;
  /** Folders of src/. */
  readonly folders: readonly string[];
  /** True where they stand side by side, and none imports another. */
  readonly separate: boolean;
  /** What it may import from outside src/, as the start of a path. */
  readonly outside?: readonly string[];
}

export const FLOORS: readonly Floor[] = [
  { number: 5, folders: ['cli', 'web', 'testing'], separate: false, outside: ['guests/linux/', 'guests/ladder/'] },
  { number: 4, folders: ['machine'], separate: false },
  { number: 3, folders: ['boot', 'vcpu', 'devices'], separate: true },
  { number: 2, folders: ['kvm'], separate: false },
  { number: 1, folders: ['memory'], separate: false },
];

/** The library's door stands beside the house: it may import every floor, and no floor imports it. */
const DOOR = 'src/index.ts';
const MOST_LINES = 400;

/** What a file names of others: static and dynamic imports, re-exports, and the modules that it hands to a worker. */
const REFERENCES: readonly RegExp[] = [
  /^(?:import|export|\})[^'";]*? from '([^']+)'/gm,
  /^import '([^']+)'/gm,
  /\bimport\(\s*'([^']+)'/g,
  /\bnew URL\('(\.[^']+\.js)'/g,
];

export function referencesOf(text: string): string[] {
  return REFERENCES.flatMap((pattern) => [...text.matchAll(pattern)].map(([, path]) => path ?? ''));
}

/** The repository path that a relative reference means; undefined for a package. */
function resolve(from: string, reference: string): string | undefined {
  if (!reference.startsWith('.')) return undefined;
  return posix.join(posix.dirname(from), reference).replace(/\.js$/, '.ts');
}

function folderOf(path: string): string {
  return path.split('/')[1] ?? '';
}

function floorOf(path: string): Floor | undefined {
  return FLOORS.find(({ folders }) => folders.includes(folderOf(path)));
}

/** Imports that go up, sideways where floors are divided, or out of the house. */
export function floorBreaches(sources: Sources): string[] {
  const breaches: string[] = [];
  for (const [path, text] of sources) {
    if (path === DOOR) continue;
    const floor = floorOf(path);
    if (floor === undefined) {
      breaches.push(`${path}: src/${folderOf(path)} is on no floor`);
      continue;
    }
    for (const target of referencesOf(text).map((reference) => resolve(path, reference))) {
      if (target === undefined) continue;
      const breach = breachOf(floor, path, target);
      if (breach !== undefined) breaches.push(`${path} imports ${target}: ${breach}`);
    }
  }
  return breaches;
}

function breachOf(floor: Floor, path: string, target: string): string | undefined {
  if (!target.startsWith('src/'))
    return floor.outside?.some((start) => target.startsWith(start)) === true ? undefined : 'it is outside src/';
  const other = floorOf(target);
  if (other === undefined) return 'it is on no floor';
  if (other.number > floor.number) return `floor ${floor.number} may not call up to floor ${other.number}`;
  const isNeighbour = other === floor && folderOf(path) !== folderOf(target);
  return isNeighbour && floor.separate ? `the folders of floor ${floor.number} stand side by side` : undefined;
}

/** Circles of imports, each once, as `a → b → a`. */
export function cycles(sources: Sources): string[] {
  const found = new Set<string>();
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path);
    if (start >= 0) {
      const circle = trail.slice(start);
      // Begun at its first file by name, so that it is the same circle wherever the walk met it.
      const first = circle.indexOf(circle.toSorted()[0] ?? path);
      const turned = [...circle.slice(first), ...circle.slice(0, first)];
      found.add([...turned, turned[0]].join(' → '));
      return;
    }
    if (done.has(path)) return;
    for (const reference of referencesOf(sources.get(path) ?? '')) {
      const target = resolve(path, reference);
      if (target !== undefined && sources.has(target)) visit(target, [...trail, path]);
    }
    done.add(path);
  };
  for (const path of sources.keys()) visit(path, []);
  return [...found];
}

/** Packages that are neither Node's nor among `dependencies`. */
export function strangers(sources: Sources, dependencies: readonly string[]): string[] {
  const breaches: string[] = [];
  for (const [path, text] of sources)
    for (const reference of referencesOf(text)) {
      const name = /^(?:@[^/]+\/)?[^/]+/.exec(reference)?.[0] ?? reference;
      if (!reference.startsWith('.') && !reference.startsWith('node:') && !dependencies.includes(name))
        breaches.push(`${path} imports ${reference}: package.json has no such dependency`);
    }
  return breaches;
}

interface FileRule {
  readonly broken: (path: string, text: string) => boolean;
  readonly breach: string;
}

const FILE_RULES: readonly FileRule[] = [
  {
    broken: (_path, text) => !/^(?:#![^\n]*\n)?\/\/ \S/.test(text),
    breach: 'the first line must be a comment that says what the file is',
  },
  {
    broken: (_path, text) => text.split('\n').length - 1 > MOST_LINES,
    breach: `a file has at most ${MOST_LINES} lines`,
  },
  {
    broken: (_path, text) => /^export default\b|^export \{[^}]*\bas default\b/m.test(text),
    breach: 'no default exports',
  },
  {
    broken: (path) => !/^[a-z0-9]+(?:-[a-z0-9]+)*\.ts$/.test(posix.basename(path)),
    breach: 'file names are kebab-case',
  },
];

export function fileBreaches(sources: Sources): string[] {
  return [...sources].flatMap(([path, text]) =>
    FILE_RULES.filter(({ broken }) => broken(path, text)).map(({ breach }) => `${path}: ${breach}`),
  );
}

/** Declarations (`.d.ts`) in which the type `any` occurs, written or inferred. */
export function anyExports(declarations: Sources): string[] {
  const breaches: string[] = [];
  for (const [path, text] of declarations) {
    const code = text
      .replaceAll(/\/\*[^]*?\*\//g, '')
      .replaceAll(/\/\/[^\n]*/g, '')
      .replaceAll(/'[^'\n]*'|"[^"\n]*"/g, "''");
    const line = code.split('\n').find((each) => /\bany\b(?!\??:)/.test(each));
    if (line !== undefined) breaches.push(`${path} exports any: ${line.trim()}`);
  }
  return breaches;
}
