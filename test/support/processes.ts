// Processes of this host, looked at from outside: what /proc says of them.
// proc(5).
import { readdirSync, readFileSync } from 'node:fs';

/** Processes whose parent is `pid`, by the name of their program. */
export function children(pid: number, program = 'passt'): number[] {
  return readdirSync(`/proc/${pid}/task`)
    .flatMap((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' '))
    .map(Number)
    .filter((child) => child > 0 && readFileSync(`/proc/${child}/comm`, 'utf8').startsWith(program));
}

/** Ends the only child that has this program, as nobody asked for. */
export function killChild(program = 'passt'): void {
  const [child, ...others] = children(process.pid, program);
  if (child === undefined || others.length > 0) throw new Error(`not one child of the name ${program}`);
  process.kill(child, 'SIGKILL');
}

/** This process's share of a processor over a second in which nothing should happen; the calmest of three. */
export async function idleShare(): Promise<number> {
  let least = 1;
  for (let i = 0; i < 3 && least > 0.05; i++) {
    const before = process.cpuUsage();
    const from = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const { user, system } = process.cpuUsage(before);
    least = Math.min(least, (user + system) / 1000 / (performance.now() - from));
  }
  return least;
}
