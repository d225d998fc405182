// Runs the tools that the guest is built with: their output line by line, their end as an error that says enough.

import { spawn } from 'node:child_process';

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Called with each line of standard output. */
  readonly onLine?: (line: string) => void;
  readonly signal?: AbortSignal | undefined;
  /** What is being done, for the error: "build the kernel". */
  readonly purpose: string;
}

/** Lines of output kept for an error message. */
const KEPT_LINES = 12;

function splitLines(onLine: (line: string) => void): (chunk: string) => void {
  let rest = '';
  return (chunk) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  };
}

/** Ends the whole process group: make's compilers must not go on in a directory that is being removed. */
function endGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/**
 * Runs a program and resolves with its standard output.
 * Rejects when it cannot be started, ends with another status than 0, or `signal` is aborted (it is killed then).
 */
export async function run(program: string, args: readonly string[], options: RunOptions): Promise<string> {
  options.signal?.throwIfAborted();
  const child = spawn(program, args, {
    cwd: options.cwd,
    // Tools speak English to us, whatever they speak to the user.
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const abort = (): void => endGroup(child.pid);
  options.signal?.addEventListener('abort', abort);
  process.once('exit', abort);
  const kept: string[] = [];
  const keep = (line: string): void => {
    kept.push(line);
    if (kept.length > KEPT_LINES) kept.shift();
  };
  let output = '';
  const onLine = options.onLine;
  const lines = onLine === undefined ? undefined : splitLines(onLine);
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    if (lines === undefined) output += chunk;
    else lines(chunk);
  });
  child.stderr.setEncoding('utf8').on('data', splitLines(keep));
  try {
    const [code, ending] = await new Promise<[number | null, string | null]>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, signalName) => resolve([status, signalName]));
    });
    options.signal?.throwIfAborted();
    if (code !== 0) {
      const how = ending === null ? `status ${code ?? '?'}` : `signal ${ending}`;
      const said = kept.length === 0 ? '' : `\n${kept.join('\n')}`;
      throw new Error(`cannot ${options.purpose}: "${program} ${args.join(' ')}" ended with ${how}${said}`);
    }
    return output;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new Error(`cannot ${options.purpose}: there is no ${program} on this machine`, { cause: error });
    }
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', abort);
    process.off('exit', abort);
  }
}
