// What a verb of the command is: a name, a sentence, and a file that is loaded only when the verb is used.
// Our own.
import type { Command } from 'commander';

/** What a verb gets from the command line besides its own options. */
export interface Invocation {
  /** The words after `--`; undefined without one. */
  readonly rest: readonly string[] | undefined;
  /** To be called with the verb's exit status, or the signal that the process is to die of. */
  readonly end: (end: { readonly status: number; readonly signal?: NodeJS.Signals }) => void;
}

/** Adds the verb's options, help and action. */
export type DefineVerb = (command: Command, invocation: Invocation) => void;

export interface VerbRow {
  readonly name: string;
  readonly summary: string;
  load(): Promise<{ readonly define: DefineVerb }>;
}
