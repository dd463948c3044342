/* What the examples have instead of a C library. */
#ifndef START_H
#define START_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes to the terminal. */
void print(const char *text);
void print_number(uint32_t number);

#ifdef __cplusplus
}
#endif

#endif
