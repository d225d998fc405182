// Runs the `microvisor` command as a process of its own, the way a person's shell does.
import { spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The command as it is installed. */
export const MAIN = fileURLToPath(new URL('../../bundle/cli/main.js', import.meta.url));

export interface Ended {
  /** Null when a signal ended it. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface Running {
  readonly child: ChildProcess;
  /** Resolves with both when stderr or stdout holds `text`; rejects when the process ends before. */
  readonly seen: (text: string) => Promise<string>;
  readonly ended: Promise<Ended>;
}

export interface StartOptions {
  /** Written to stdin, which is then closed; undefined: stdin is a pipe that stays open. */
  readonly input?: Uint8Array | string;
  readonly uid?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Command and arguments to put in front. */
  readonly wrapper?: readonly string[];
}

export function start(words: readonly string[], options: StartOptions = {}): Running {
  const [program = '', ...rest] = [...(options.wrapper ?? []), process.execPath, MAIN, ...words];
  const child = spawn(program, rest, {
    stdio: 'pipe',
    // A process group of its own, so that what it leaves behind can be found.
    detached: true,
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  const listeners = new Set<() => void>();
  const collect = (into: Buffer[]) => (chunk: Buffer) => {
    into.push(chunk);
    for (const listener of listeners) listener();
  };
  child.stdout.on('data', collect(stdout));
  child.stderr.on('data', collect(stderr));
  child.stdin.on('error', () => undefined);
  if (options.input !== undefined) child.stdin.end(options.input);
  const ended = new Promise<Ended>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) =>
      resolve({ status, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() }),
    );
  });
  const seen = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        const said = Buffer.concat([...stdout, ...stderr]).toString();
        if (!said.includes(text)) return;
        listeners.delete(look);
        resolve(said);
      };
      listeners.add(look);
      look();
      void ended.then((end) => reject(new Error(`ended without saying ${text}: ${JSON.stringify(end)}`)), reject);
    });
  return { child, seen, ended };
}

export function microvisor(words: readonly string[], options: StartOptions = {}): Promise<Ended> {
  return start(words, { input: '', ...options }).ended;
}

/** Process ids of a process group that still has living members. */
export function groupMembers(group: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
        const [state, , processGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return Number(processGroup) === group && state !== 'Z';
      } catch {
        return false;
      }
    });
}
