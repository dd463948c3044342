/*
 * Integer-only transformer inference, the same bytes on every machine.
 *
 * Generated from firmware/c/src by `cargo xtask c --header`. A model, its operators and constants come from
 * `shiftformer codegen model.sfm -o model.h`.
 */

#ifndef SHIFTFORMER_H
#define SHIFTFORMER_H

#include <stddef.h>
#include <stdint.h>

/* The functions of an operator. */
typedef struct sf_functions sf_functions;

// Words of [`sf_model`].
#define SF_MODEL_WORDS 44

// Words of [`sf_session`].
#define SF_SESSION_WORDS 56

// What became of a call.
enum sf_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  SF_OK = 0,
  // Work is left: call `sf_session_step` again.
  SF_RUNNING = 1,
  // A pointer is null or misaligned, or storage holds no model or session.
  SF_ERROR_ARGUMENT = -1,
  // The bytes are no model.
  SF_ERROR_NOT_A_MODEL = -2,
  // Model, arena or state do not start at a multiple of 16 bytes.
  SF_ERROR_MISALIGNED = -3,
  // The file is shorter or longer than its header says.
  SF_ERROR_LENGTH = -4,
  // Written for a newer or incompatible reader.
  SF_ERROR_VERSION = -5,
  // A checksum does not match.
  SF_ERROR_CHECKSUM = -6,
  // A section, tensor or operator of the file is invalid.
  SF_ERROR_INVALID = -7,
  // The model uses an operator that the table lacks.
  SF_ERROR_OPERATOR_MISSING = -8,
  // The arena is smaller than `sf_model_arena_bytes`.
  SF_ERROR_ARENA_TOO_SMALL = -9,
  // The state is smaller than `sf_model_state_bytes`.
  SF_ERROR_STATE_TOO_SMALL = -10,
  // The input holds an index (a token id) beyond its table.
  SF_ERROR_INDEX = -11,
  // No position is left in the state.
  SF_ERROR_FULL = -12,
  // A run does not take that many rows.
  SF_ERROR_ROWS = -13,
  // An operand is out of bounds: the model changed after it was opened.
  SF_ERROR_MEMORY = -14,
  // An operator computed something else than on the converter's machine.
  SF_ERROR_RECEIPT = -15,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sf_status sf_status;
#else
typedef int32_t sf_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Storage for a model; it does not move while sessions run it.
typedef struct sf_model {
  uintptr_t opaque[SF_MODEL_WORDS];
} sf_model;

// An operator of a model: its code in the file, and its functions. `shiftformer codegen` writes a table of them.
typedef struct sf_operator {
  uint16_t kind;
  const sf_functions *functions;
} sf_operator;

// Storage for a run of a model.
typedef struct sf_session {
  uintptr_t opaque[SF_SESSION_WORDS];
} sf_session;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// `linear`.
extern const sf_functions sf_op_linear;

// `conv2d`.
extern const sf_functions sf_op_conv2d;

// `depthwise_conv2d`.
extern const sf_functions sf_op_depthwise_conv2d;

// `matmul`.
extern const sf_functions sf_op_matmul;

// `attention`.
extern const sf_functions sf_op_attention;

// `attention_scores`.
extern const sf_functions sf_op_attention_scores;

// `attention_exp`.
extern const sf_functions sf_op_attention_exp;

// `attention_values`.
extern const sf_functions sf_op_attention_values;

// `softmax`.
extern const sf_functions sf_op_softmax;

// `layer_norm`.
extern const sf_functions sf_op_layer_norm;

// `add`.
extern const sf_functions sf_op_add;

// `mul`.
extern const sf_functions sf_op_mul;

// `lut`.
extern const sf_functions sf_op_lut;

// `requant`.
extern const sf_functions sf_op_requant;

// `copy`.
extern const sf_functions sf_op_copy;

// `gather`.
extern const sf_functions sf_op_gather;

// `reduce_mean`.
extern const sf_functions sf_op_reduce_mean;

// `pool2d`.
extern const sf_functions sf_op_pool2d;

// `dyadic_requant`.
extern const sf_functions sf_op_dyadic_requant;

// `shiftmax`.
extern const sf_functions sf_op_shiftmax;

// `shiftgelu`.
extern const sf_functions sf_op_shiftgelu;

// `i_layer_norm`.
extern const sf_functions sf_op_i_layer_norm;

// `kv_append`.
extern const sf_functions sf_op_kv_append;

// `causal_attention`.
extern const sf_functions sf_op_causal_attention;

// `rope`.
extern const sf_functions sf_op_rope;

// `linear_i16`.
extern const sf_functions sf_op_linear_i16;

// `conv2d_i16`.
extern const sf_functions sf_op_conv2d_i16;

// `depthwise_conv2d_i16`.
extern const sf_functions sf_op_depthwise_conv2d_i16;

// `matmul_i16`.
extern const sf_functions sf_op_matmul_i16;

// `lut_i16`.
extern const sf_functions sf_op_lut_i16;

// `max_pool_i16`.
extern const sf_functions sf_op_max_pool_i16;

// `positions`.
extern const sf_functions sf_op_positions;

// `embedding`.
extern const sf_functions sf_op_embedding;

// `lmul_linear`.
extern const sf_functions sf_op_lmul_linear;

// `windowed_attention`.
extern const sf_functions sf_op_windowed_attention;

// `lookup_linear`.
extern const sf_functions sf_op_lookup_linear;

// What a status means, for logs.
const char *sf_status_text(int32_t status);

// Opens a model with every check: for files whose origin is not the build, such as one received in the field.
//
// `file` starts at a multiple of 16 bytes, stays where it is and does not change while the model is in use; so does
// `operators`.
//
// # Safety
// Pointers point to as much as is said; `model` may be written.
sf_status sf_model_open(struct sf_model *model,
                        const uint8_t *file,
                        uintptr_t file_bytes,
                        const struct sf_operator *operators,
                        uintptr_t n_operators);

// Opens a model that `shiftformer codegen` has opened with every check when the program was built: `MODEL_open` of the
// generated header does this. What memory safety needs is checked in any case.
//
// # Safety
// As [`sf_model_open`]; and `file` is the array that `shiftformer codegen` wrote.
sf_status sf_model_open_proven(struct sf_model *model,
                               const uint8_t *file,
                               uintptr_t file_bytes,
                               const struct sf_operator *operators,
                               uintptr_t n_operators);

// Bytes of arena that a session of this model needs, aligned to 16; 0 where none was opened.
//
// # Safety
// `model` points to storage.
uintptr_t sf_model_arena_bytes(const struct sf_model *model);

// Bytes that a session of this model keeps from one run to the next; 0 for most models.
//
// # Safety
// As [`sf_model_arena_bytes`].
uintptr_t sf_model_state_bytes(const struct sf_model *model);

// Reference runs in the model, for [`sf_session_prove`].
//
// # Safety
// As [`sf_model_arena_bytes`].
uintptr_t sf_model_receipts(const struct sf_model *model);

// Starts a session over `arena`, and over `state` for a model that keeps some (else `NULL`, 0). Both are aligned to 16 and
// belong to the session from here on.
//
// # Safety
// Pointers point to as much as is said, and nothing else is there.
sf_status sf_session_start(struct sf_session *session,
                           const struct sf_model *model,
                           uint8_t *arena,
                           uintptr_t arena_bytes,
                           uint8_t *state,
                           uintptr_t state_bytes);

// Memory of input `index`, to be filled before each run, and its size; `NULL` where there is none. Cancels a run that is
// under way.
//
// # Safety
// `session` points to storage, `n_bytes` to a number or is `NULL`.
uint8_t *sf_session_input(struct sf_session *session,
                          uintptr_t index,
                          uintptr_t *n_bytes);

// Output `index` of the run that has finished, and its size; `NULL` where there is none.
//
// # Safety
// As [`sf_session_input`].
const uint8_t *sf_session_output(struct sf_session *session, uintptr_t index, uintptr_t *n_bytes);

// Runs all operators.
//
// # Safety
// `session` points to storage.
sf_status sf_session_run(struct sf_session *session);

// Does the next bounded piece of work. `SF_RUNNING`: call it again; `SF_OK`: the outputs are ready, and the next call starts
// anew.
//
// # Safety
// As [`sf_session_run`].
sf_status sf_session_step(struct sf_session *session);

// Forgets a run that is under way; the next step starts from the inputs.
//
// # Safety
// As [`sf_session_run`].
void sf_session_cancel(struct sf_session *session);

// Sets the rows of the following runs of a model with state, the first ones of the inputs.
//
// # Safety
// As [`sf_session_run`].
sf_status sf_session_feed(struct sf_session *session, uint32_t rows);

// Goes back to position 0 of a model with state.
//
// # Safety
// As [`sf_session_run`].
void sf_session_reset(struct sf_session *session);

// Runs reference run `receipt` of the model and compares the digest of every operator with the one that the converter
// computed. `SF_ERROR_RECEIPT`: the first operator that differs is in `op` (may be `NULL`).
//
// # Safety
// As [`sf_session_input`].
sf_status sf_session_prove(struct sf_session *session,
                           uintptr_t receipt,
                           uintptr_t *op);

// Name of the kernels of this library, such as `armv7em`, and its length: no zero follows.
//
// # Safety
// `n_bytes` points to a number or is `NULL`.
const char *sf_kernels(uintptr_t *n_bytes);

// What a status means, for logs.
const char *sf_status_text(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SHIFTFORMER_H */

/* Storage of another size than the library's would be written beyond its end. */
#if defined(__cplusplus)
static_assert(sizeof(sf_model) == SF_MODEL_WORDS * sizeof(uintptr_t), "sf_model");
static_assert(sizeof(sf_session) == SF_SESSION_WORDS * sizeof(uintptr_t), "sf_session");
static_assert(sizeof(sf_operator) == 2 * sizeof(uintptr_t), "sf_operator");
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
_Static_assert(sizeof(sf_model) == SF_MODEL_WORDS * sizeof(uintptr_t), "sf_model");
_Static_assert(sizeof(sf_session) == SF_SESSION_WORDS * sizeof(uintptr_t), "sf_session");
_Static_assert(sizeof(sf_operator) == 2 * sizeof(uintptr_t), "sf_operator");
#endif
