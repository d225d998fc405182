# The native shim: KVM's calls in C, their face to JavaScript in C++.
{
  'targets': [
    {
      'target_name': 'microvisor',
      'sources': [
        'ioctl.c',
        'vm.c',
        'vcpu.c',
        'trace.c',
        'runners.c',
        'eventfd.c',
        'host.c',
        'io.c',
        'io-cached.c',
        'tap.c',
        'guest-ram.c',
        'handles.cc',
        'enter.cc',
        'watch.cc',
        'io-binding.cc',
        'ram-binding.cc',
        'binding.cc',
      ],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': ['NAPI_VERSION=8', 'NODE_ADDON_API_CPP_EXCEPTIONS', '_GNU_SOURCE'],
      'cflags': ['-O2', '-Wall', '-Wextra', '-fvisibility=hidden'],
      'cflags_c': ['-std=c11'],
      'cflags_cc': ['-std=c++17', '-fexceptions'],
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-std=gnu++20'],
      # The kick's signal handler lives in here: the library must outlast the last worker that loaded it.
      'ldflags': ['-Wl,-z,nodelete'],
    },
  ],
}
