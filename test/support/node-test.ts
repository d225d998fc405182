// Runs a test-suite of examples/ as its reader would: by Node's own runner, in a process of its own.
import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

export interface SuiteEnd {
  readonly status: number | null;
  readonly output: string;
  readonly passed: number;
  readonly failed: number;
}

/** @param name of the compiled file in examples/ */
export async function runSuite(name: string): Promise<SuiteEnd> {
  const file = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
  const child = spawn(process.execPath, ['--test', '--test-reporter=tap', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const count = (word: string): number => Number(new RegExp(`^# ${word} (\\d+)$`, 'm').exec(out)?.[1]);
  return { status: await ended, output: `${out}${err}`, passed: count('pass'), failed: count('fail') };
}
