/* The kernel's command line. Names with a dot never reach init's arguments, so it is read from /proc. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "init.h"

static char text[4096];
static size_t used;

static void load(void) {
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
  if (fd >= 0)
    close(fd);
  if (n < 0)
    n = 0;
  used = n;
  /* Each word becomes a string of its own. */
  for (ssize_t i = 0; i < n; i++)
    if (text[i] == ' ' || text[i] == '\n')
      text[i] = '\0';
}

const char *cmdline_next(const char *word) {
  static int loaded;
  if (!loaded) {
    loaded = 1;
    load();
  }
  word = word ? word + strlen(word) : text;
  while (word < text + used && *word == '\0')
    word++;
  return word < text + used ? word : NULL;
}

const char *cmdline_value(const char *name) {
  size_t length = strlen(name);
  for (const char *word = NULL; (word = cmdline_next(word));)
    if (strncmp(word, name, length) == 0) {
      if (word[length] == '=')
        return word + length + 1;
      if (word[length] == '\0')
        return word + length;
    }
  return NULL;
}
