// The samples of a documentation page: its fenced ts blocks, and what each is to print.
// CommonMark §4.5 (fenced code blocks). `ts file=NAME` is a module for the others; a text block behind a sample is its output.

export interface Sample {
  /** Where it is written: its own name, or one by its place on the page. */
  readonly file: string;
  readonly text: string;
  /** True for a program, false for a module that others load. */
  readonly isProgram: boolean;
  /** What it prints; undefined when the page does not say. */
  readonly output: string | undefined;
}

/** @param page its name, for the samples' files */
export function samplesOf(page: string, text: string): readonly Sample[] {
  const samples: Sample[] = [];
  for (const [, info = '', body = '', output] of text.matchAll(
    /^```ts([^\n]*)\n([^]*?)^```\n(?:\n```text\n([^]*?)^```\n)?/gm,
  )) {
    const name = /\bfile=(\S+)/.exec(info)?.[1];
    const file = name ?? `${page}-${samples.length + 1}.ts`;
    samples.push({ file, text: body, isProgram: name === undefined, output });
  }
  return samples;
}
