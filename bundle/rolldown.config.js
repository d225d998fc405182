// Joins the compiled modules into a few files: loading 140 small modules, in the process and again in each vCPU's thread,
// costs more processor time than everything else between the start of a process and its first KVM_RUN.
// They are CommonJS, started through launch.cjs: so Node takes V8's code cache (compile.mjs), and no asynchronous loader.
import { readFileSync } from 'node:fs';

// What is started: by a user, as a vCPU's thread, by an import of the package.
const command = "#!/usr/bin/env node\nrequire('../launch.js').launch(require.resolve('../command/main.js'));\n";
const thread = "require('../launch.js').launch(require.resolve('../thread/main.js'));\n";
const library = (names) => `import { fileURLToPath } from 'node:url';
import { launch } from '../launch.js';
export const { ${names.join(', ')} } = launch(fileURLToPath(new URL('../library/main.js', import.meta.url)));
`;

/**
 * One entry, joined into a folder: every file lies as deep as in dist/src/, so that URLs relative to a module mean
 * the same in both. Each has all of its code: what two of them shared would be files with parts that one does not need.
 */
function entry(input, folder, starter) {
  return {
    input: { main: `dist/src/${input}.js` },
    platform: 'node',
    // What the command loads late, the library has at once, from the same modules.
    checks: { ineffectiveDynamicImport: false },
    // The lessons stay as they are: they use the library by its name, as a reader's program does.
    external: [/^node:/, 'koffi', 'iced-x86', 'ws', 'microvisor', /guests\/ladder\//],
    // Left as they are written: relative to a place as deep as their own.
    makeAbsoluteExternalsRelative: false,
    plugins: [
      { name: 'wrap', generateBundle: wrap },
      { name: 'starter', generateBundle: starter },
    ],
    output: {
      dir: 'dist/bundle',
      format: 'cjs',
      strict: true,
      entryFileNames: `${folder}/[name].js`,
      chunkFileNames: `${folder}/[name].js`,
    },
  };
}

/**
 * Makes each file the function that launch.cjs calls, as Node wraps a CommonJS file; import() is a parameter, for code
 * that V8 took from its cache has none. In ASCII: one character outside Latin-1, even in a comment, and V8 keeps all of
 * the file in 16 bits a character, in every thread.
 */
function wrap(_options, bundle) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  for (const file of Object.values(bundle))
    if (file.type === 'chunk') {
      const code = file.code.replaceAll(/[^\0-\x7f]/g, escape).replaceAll(/\bimport\(/g, 'importModule(');
      file.code = `(function (exports, require, module, __filename, __dirname, importModule) { ${code}\n})`;
    }
}

/** The explorer's page, whole: a browser has no network to fetch the rest from. Served by src/web/page-server.ts. */
const page = {
  input: { page: 'dist/src/web/page/main.js' },
  platform: 'browser',
  plugins: [
    {
      name: 'page',
      generateBundle: emit(() => ({
        'index.html': read('../src/web/page/index.html'),
        'page.css': [
          read('../node_modules/@xterm/xterm/css/xterm.css'),
          read('../node_modules/uplot/dist/uPlot.min.css'),
          read('../src/web/page/page.css'),
        ].join('\n'),
      })),
    },
  ],
  output: { dir: 'dist/web', format: 'esm', entryFileNames: '[name].js', minify: true },
};

function read(name) {
  return readFileSync(new URL(name, import.meta.url), 'utf8');
}

function emit(files) {
  return function (_options, bundle) {
    for (const [fileName, source] of Object.entries(files(bundle))) this.emitFile({ type: 'asset', fileName, source });
  };
}

export default [
  page,
  entry(
    'cli/main',
    'command',
    emit(() => ({
      'cli/main.js': command,
      'launch.js': readFileSync(new URL('launch.cjs', import.meta.url), 'utf8'),
      'package.json': '{ "type": "commonjs" }\n',
    })),
  ),
  entry(
    'machine/vcpu-worker',
    'thread',
    emit(() => ({ 'machine/vcpu-worker.js': thread })),
  ),
  entry(
    'index',
    'library',
    emit((bundle) => ({ 'lib/index.mjs': library(bundle['library/main.js'].exports) })),
  ),
];
