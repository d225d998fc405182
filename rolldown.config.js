// Joins the compiled modules into a few files: loading 140 small modules, in the process and again in each vCPU's worker,
// costs more processor time than everything else between the start of a process and its first KVM_RUN.
export default {
  input: {
    'cli/main': 'dist/src/cli/main.js',
    'lib/index': 'dist/src/index.js',
    // Loaded by their URLs: the vCPU thread, and the board that it builds.
    'vcpu/worker': 'dist/src/vcpu/worker.js',
    'machine/board': 'dist/src/machine/board.js',
    // Loaded by the modules of users' devices, in each vCPU thread: by itself, for the library takes forty milliseconds.
    'devices/user-device': 'dist/src/devices/user-device.js',
  },
  platform: 'node',
  // The lessons stay as they are: they use the library by its name, as a reader's program does.
  external: [/^node:/, 'koffi', 'iced-x86', 'microvisor', /guests\/ladder\//],
  output: {
    dir: 'dist/bundle',
    format: 'esm',
    // Every file lies as deep as in dist/src/, so that URLs relative to a module mean the same in both.
    entryFileNames: '[name].js',
    chunkFileNames: 'chunk/[name].js',
  },
};
