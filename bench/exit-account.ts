// The account of an exit: how many instructions and cache lines it takes by who serves it, beside a plain C loop.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { accountOf, DEBUGGER, type ExitAccount, type Owner } from './exits/account.js';
import { CASES } from './exits/cases.js';
import { openWorkshop } from './exits/processes.js';
import { TIERS } from './exits/tiers.js';
import { formatMachine, machineInfo } from './machine.js';
import type { BenchOptions } from './main.js';
import { ProgressLine } from './progress-line.js';
import { formatTable } from './spread.js';

const ACCOUNTED_CASES = ['port-write-long', 'mmio-read-long'];
const ACCOUNTED_TIERS = ['c', 'inline', 'worker', 'statistics', 'trace', 'koffi'];
const PARTS: readonly Owner[] = ['the C loop', 'compiled JavaScript', 'the addon', 'Node', 'libc'];

/** @returns the process's exit status: 1 where gdb is missing */
export async function benchExitAccount({ json, only, tier }: BenchOptions): Promise<number> {
  if (spawnSync(DEBUGGER, ['--version']).status !== 0) {
    process.stderr.write(
      `the account of an exit is taken by ${DEBUGGER}, which is not installed: apt-get install gdb\n`,
    );
    return 1;
  }
  const cases = CASES.filter(({ id }) => (only.length > 0 ? only : ACCOUNTED_CASES).includes(id));
  const tiers = TIERS.filter(({ id }) => (tier.length > 0 ? tier : ACCOUNTED_TIERS).includes(id));
  const machine = machineInfo();
  const rows: { readonly case: string; readonly tier: string; readonly account: ExitAccount }[] = [];
  const progress = new ProgressLine('exit-account');
  using workshop = openWorkshop();
  for (const each of cases)
    for (const by of tiers) {
      progress.show(`${each.title}, ${by.title}`);
      rows.push({ case: each.id, tier: by.id, account: await accountOf(each, by, workshop) });
    }
  progress.end();
  if (json !== undefined)
    writeFileSync(json, `${JSON.stringify({ benchmark: 'exit-account', machine, rows }, undefined, 2)}\n`);
  process.stdout.write(`${formatMachine(machine)}; one exit, from the return of KVM_RUN to its next call\n`);
  for (const { id, title } of cases) {
    const table = rows
      .filter((row) => row.case === id)
      .map(({ tier, account: { instructions, instructionsOf, codeLines, dataLines } }) => [
        TIERS.find((each) => each.id === tier)?.title ?? tier,
        String(instructions),
        ...PARTS.map((part) => String(instructionsOf[part])),
        String(codeLines),
        String(dataLines),
      ]);
    process.stdout.write(
      `\n${formatTable([[title, 'instructions', ...PARTS.map((part) => `of ${part}`), 'lines of code', 'of data'], ...table])}\n`,
    );
  }
  return 0;
}
