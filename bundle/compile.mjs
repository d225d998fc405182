// Leaves V8's code cache beside every joined file of dist/bundle: with this Node, on this machine, since only they take it.
// And makes the command a program: npx in a clone starts the file itself, and does not always see to its mode.
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { Script } from 'node:vm';

const ROOT = fileURLToPath(new URL('../dist/bundle/', import.meta.url));
/** Folders of joined files. */
const FOLDERS = ['command', 'thread', 'library'];

function joinedFiles() {
  try {
    return FOLDERS.flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(ROOT, folder, name)));
  } catch {
    // Nothing has been built yet.
    return [];
  }
}

const files = joinedFiles().filter((file) => file.endsWith('.js'));
// Every function, not only those that run at once: what a start needs is spread over all of the code.
setFlagsFromString('--no-lazy');
const scripts = files.map((filename) => ({
  filename,
  script: new Script(readFileSync(filename, 'utf8'), { filename }),
}));
// The flags are part of the cache, and must be those of the process that takes it.
setFlagsFromString('--lazy');
for (const { filename, script } of scripts) writeFileSync(`${filename}.cache`, script.createCachedData());
if (files.length > 0) chmodSync(join(ROOT, 'cli/main.js'), 0o755);
