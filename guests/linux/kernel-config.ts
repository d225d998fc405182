// The small kernel's configuration: its rows for one kernel version, and the check that every one of them took.
// Linux Documentation/kbuild/kconfig.rst (KCONFIG_ALLCONFIG), kconfig-language.rst.

export interface ConfigRow {
  /** With its prefix, as in `CONFIG_SMP`. */
  readonly name: string;
  /** As in a .config; `n` stands for "is not set". */
  readonly value: string;
  readonly line: number;
}

const SETTING = /^(CONFIG_[A-Za-z0-9_]+)=(.+)$/;
const LIMIT = /^# (since|until) (\d+)\.(\d+)\b/;

function compareVersions(a: readonly number[], b: readonly number[]): number {
  return (a[0] ?? 0) - (b[0] ?? 0) || (a[1] ?? 0) - (b[1] ?? 0);
}

/**
 * The rows that hold for `version` ("6.12" or "6.12.30"). A comment "# since 6.9" or "# until 6.8" limits the setting
 * on the line after it; both ends are inclusive. Throws on a line that is neither comment nor setting.
 */
export function parseKernelConfig(text: string, version: string): ConfigRow[] {
  const wanted = version.split('.').map(Number);
  const rows: ConfigRow[] = [];
  let applies = true;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    const limit = LIMIT.exec(line);
    if (limit !== null) {
      const order = compareVersions(wanted, [Number(limit[2]), Number(limit[3])]);
      applies = limit[1] === 'since' ? order >= 0 : order <= 0;
      continue;
    }
    if (line === '' || line.startsWith('#')) continue;
    const setting = SETTING.exec(line);
    if (setting === null) {
      throw new Error(`kernel.config line ${index + 1}: "${line}" is neither a comment nor CONFIG_NAME=value`);
    }
    if (applies) rows.push({ name: setting[1] ?? '', value: setting[2] ?? '', line: index + 1 });
    applies = true;
  }
  return rows;
}

/** The text for KCONFIG_ALLCONFIG. */
export function formatKernelConfig(rows: readonly ConfigRow[]): string {
  return rows.map((row) => `${row.name}=${row.value}\n`).join('');
}

/**
 * Compares with the .config that the kernel's own resolution made of the rows.
 * One sentence for each row that did not take; none when all did.
 */
export function checkKernelConfig(rows: readonly ConfigRow[], dotConfig: string): string[] {
  const found = new Map<string, string>();
  for (const line of dotConfig.split('\n')) {
    const setting = SETTING.exec(line);
    if (setting !== null) found.set(setting[1] ?? '', setting[2] ?? '');
  }
  const problems: string[] = [];
  for (const row of rows) {
    const value = found.get(row.name) ?? 'n';
    if (value === row.value) continue;
    const what = value === 'n' ? 'is not set' : `is ${value}`;
    problems.push(`kernel.config line ${row.line}: ${row.name}=${row.value} did not take: it ${what}`);
  }
  return problems;
}
