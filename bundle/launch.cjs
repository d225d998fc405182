// Starts a joined file of dist/bundle with the code that V8 compiled when the package was built, where there is some.
// v8.dev/blog/code-caching-for-devs: V8 itself refuses a cache of another version or of other flags.
'use strict';
const { readFileSync, statSync } = require('node:fs');
const { createRequire } = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { Script } = require('node:vm');

/** The compiled code of `file`; undefined when there is none, or only that of an earlier build. */
function readCache(file) {
  try {
    const cache = `${file}.cache`;
    return statSync(cache).mtimeMs >= statSync(file).mtimeMs ? readFileSync(cache) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs a joined file, and those that it requires by a relative path, once each.
 * @param {string} main its absolute path
 * @returns what the file exports
 */
function launch(main) {
  const modules = new Map();
  const load = (file) => {
    const loaded = modules.get(file);
    if (loaded !== undefined) return loaded.exports;
    const module = { exports: {} };
    modules.set(file, module);
    const script = new Script(readFileSync(file, 'utf8'), { filename: file, cachedData: readCache(file) });
    const foreign = createRequire(file);
    const folder = path.dirname(file);
    const requireFrom = (id) => (id.startsWith('.') ? load(path.resolve(folder, id)) : foreign(id));
    const importFrom = (id) => import(id.startsWith('.') ? pathToFileURL(path.resolve(folder, id)).href : id);
    script.runInThisContext()(module.exports, requireFrom, module, file, folder, importFrom);
    return module.exports;
  };
  return load(main);
}

exports.launch = launch;
