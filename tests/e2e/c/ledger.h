/* What every C program here shares: where Redis is, and the lines by which the test follows its ledger. */
#ifndef LEDGER_H
#define LEDGER_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    if (value == NULL) {
        printf("%s is not set\n", name);
        exit(1);
    }
    return value;
}

__attribute__((format(printf, 2, 3))) static void expect(int holds, const char *format, ...)
{
    if (holds)
        return;
    va_list words;
    va_start(words, format);
    vprintf(format, words);
    va_end(words);
    putchar('\n');
    exit(1);
}

static int stopped(void) { return access(setting("STOP_FILE"), F_OK) == 0; }

#endif
