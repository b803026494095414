/*
 * colar_engine.h: load a language model that reasons in compressed latent vectors (CoLaR), ask it, stream what it does.
 *
 * Made from capi/src by cbindgen; `COLAR_RENEW=1 cargo test --release -p colar-engine-capi header` writes it.
 *
 * Objects. A function that gives a pointer to a struct of this library makes an object that the caller owns, and frees by
 * the function whose name ends in _free; these take NULL. Texts that go in are UTF-8, end in a NUL, and are the caller's:
 * nothing is kept of them once the call returns. Texts that come out are UTF-8, end in a NUL and belong to the object
 * that holds them; where a length stands beside one, the text may have NULs within.
 *
 * Parameters. The structs *_params begin with their size; begin with what *_default_params() gives and change fields. A
 * struct of another size, as a program has that was compiled with the header of another version, is refused with an
 * error that says so. NULL in the place of parameters stands for the defaults.
 *
 * Errors. A function that fails returns NULL or another value that it names, and leaves a line that says what is wrong: see
 * colar_last_error(). No fault of the library unwinds into the caller; callbacks must not throw or jump out either.
 *
 * Threads. Any thread may call any function with any object at any time, except that an object that is being freed is in no
 * other call, and is in none afterwards. What a colar_handle lends is lent until the next call on that handle.
 *
 * Log. The library writes to no stream of the program but where it has a fault. What there is to know beside errors, as of
 * loading, is heard by the callback of colar_set_log_callback().
 */


#ifndef COLAR_ENGINE_H
#define COLAR_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The kind of an error.
 */
typedef enum colar_status {
    /**
     * There was none.
     */
    COLAR_STATUS_OK = 0,
    /**
     * A parameter is wrong; the line names it in backticks, as the field is called.
     */
    COLAR_STATUS_USAGE = 1,
    /**
     * As many requests wait as may: submit again later.
     */
    COLAR_STATUS_QUEUE_FULL = 2,
    /**
     * Anything else: a file, the memory, the device, a fault of the library.
     */
    COLAR_STATUS_OTHER = 3,
} colar_status;

/**
 * How much a line of the log is to be heeded.
 */
typedef enum colar_log_level {
    /**
     * Something has failed.
     */
    COLAR_LOG_LEVEL_ERROR = 1,
    /**
     * It goes on, though perhaps not as was meant.
     */
    COLAR_LOG_LEVEL_WARN = 2,
    /**
     * Something was done as asked.
     */
    COLAR_LOG_LEVEL_INFO = 3,
} colar_log_level;

/**
 * Why a request ended.
 */
typedef enum colar_ending {
    /**
     * The model ended its answer.
     */
    COLAR_ENDING_FINISHED,
    /**
     * max_new_tokens was reached, or the last of the positions that the model was made for.
     */
    COLAR_ENDING_LIMIT,
    /**
     * It was cancelled.
     */
    COLAR_ENDING_CANCELLED,
    /**
     * Its time was over.
     */
    COLAR_ENDING_DEADLINE,
} colar_ending;

/**
 * The kinds of events.
 */
typedef enum colar_event_kind {
    /**
     * The request waits in a scheduler; `number` others wait before it.
     */
    COLAR_EVENT_KIND_QUEUED,
    /**
     * Its prompt has been read.
     */
    COLAR_EVENT_KIND_PREFILLED,
    /**
     * A latent was drawn, or a thought formed; `number` counts them from 1.
     */
    COLAR_EVENT_KIND_LATENT,
    /**
     * The token `token` was chosen; `text` is what it adds.
     */
    COLAR_EVENT_KIND_TOKEN,
    /**
     * It has ended; `text` is what was left of it.
     */
    COLAR_EVENT_KIND_DONE,
} colar_event_kind;

/**
 * The result of colar_handle_next().
 */
typedef enum colar_next {
    /**
     * The request failed, it alone, or the call is wrong; colar_last_error() says how.
     */
    COLAR_NEXT_ERROR = -1,
    /**
     * There was no event in that time.
     */
    COLAR_NEXT_TIMEOUT = 0,
    /**
     * An event.
     */
    COLAR_NEXT_EVENT = 1,
    /**
     * The request has ended, and all its events were given.
     */
    COLAR_NEXT_END = 2,
} colar_next;

/**
 * A request on its way through a scheduler.
 */
typedef struct colar_handle colar_handle;

/**
 * A loaded model.
 */
typedef struct colar_model colar_model;

/**
 * Runs requests together that come one by one: they join a running batch and leave it between steps. Each gives what it
 * gives alone.
 */
typedef struct colar_scheduler colar_scheduler;

/**
 * Hears a line of the log, without a line feed. The text lives as long as the call. It may run on any thread that works for
 * the library, on one at a time; lines that the library logs while it runs on that thread are lost.
 */
typedef void (*colar_log_callback)(enum colar_log_level level, const char *text, void *user_data);

/**
 * Hears how far a model is loaded: so many bytes of its weights, of so many in all. Returns false to stop loading. It may
 * run on another thread than colar_model_load(), which waits meanwhile.
 */
typedef bool (*colar_progress_callback)(uint64_t bytes, uint64_t total, void *user_data);

/**
 * How a model is loaded. Names are those of the command line.
 */
typedef struct colar_model_params {
    /**
     * sizeof(colar_model_params), which colar_model_default_params() sets.
     */
    size_t size;
    /**
     * A checkpoint over the model: a directory, or a .ckpt file of the authors' code. NULL: none.
     */
    const char *adapter;
    /**
     * "auto", "cpu", "cuda" or "cuda-host". NULL: auto.
     */
    const char *device;
    /**
     * "f32" or "bf16", on CUDA devices. NULL: bf16 on a GPU, else f32.
     */
    const char *dtype;
    /**
     * "merge" or "apart": whether a LoRA adapter goes into the weights. NULL: what suits the device.
     */
    const char *lora;
    /**
     * "paper" or "chat": the layout around questions of a model without a checkpoint. NULL: the checkpoint's, or paper.
     */
    const char *prompt_template;
    /**
     * CPU threads, at most 1024; 0: one a core.
     */
    uint32_t threads;
    /**
     * Whether requests may take more positions than the model was made for.
     */
    bool allow_long;
    /**
     * Whether a blank is put into texts of questions that mean something in the prompt (`###`, special tokens); else a request
     * with such a question fails.
     */
    bool escape_marks;
    /**
     * Hears of the loading. NULL: nobody.
     */
    colar_progress_callback progress;
    /**
     * Handed to `progress`.
     */
    void *user_data;
} colar_model_params;

/**
 * A request beside its text. Names are those of the command line.
 */
typedef struct colar_request_params {
    /**
     * sizeof(colar_request_params), which colar_request_default_params() sets.
     */
    size_t size;
    /**
     * "colar", "cot", "icot", "coconut" or "distill": how a question is answered; "plain": the text is continued as it is,
     * without template or reasoning. NULL: as the checkpoint was trained.
     */
    const char *method;
    /**
     * How many words of reasoning a latent stands for: above 0 to 1024, in decimals, or "auto". NULL: 2, or the method's own.
     */
    const char *compression_factor;
    /**
     * Factor on the latents' standard deviation, 0 or more; 0: their mean.
     */
    float latent_temperature;
    /**
     * Temperature of the draw that may end the latents, 0 or more; 0: the likelier.
     */
    float eol_temperature;
    /**
     * Temperature of tokens, 0 or more; 0: the likeliest.
     */
    float temperature;
    /**
     * Nucleus mass of tokens, above 0 to 1.
     */
    float top_p;
    /**
     * Added to the logit of the separator, which ends the reasoning.
     */
    float separator_bias;
    /**
     * Most latents, from 1 to 1048576, as of the two below.
     */
    uint32_t max_latents;
    /**
     * Most tokens of a reasoning in words.
     */
    uint32_t max_cot_tokens;
    /**
     * Most tokens of the answer, the end of sequence included.
     */
    uint32_t max_new_tokens;
    /**
     * Key of all draws: the same gives the same output.
     */
    uint64_t seed;
    /**
     * Whether to report the tokens nearest to each latent.
     */
    bool trace;
} colar_request_params;

/**
 * How much a scheduler takes on.
 */
typedef struct colar_scheduler_params {
    /**
     * sizeof(colar_scheduler_params), which colar_scheduler_default_params() sets.
     */
    size_t size;
    /**
     * Most requests that run at the same time; the others wait. At least 1.
     */
    uint32_t max_running;
    /**
     * Most requests that wait; one more is refused with COLAR_STATUS_QUEUE_FULL.
     */
    uint32_t max_queued;
    /**
     * Positions of the cache, at least 16. A request runs when there is room for all that it can need: its prompt,
     * max_latents or max_cot_tokens, the separator and max_new_tokens.
     */
    uint32_t cache_positions;
    /**
     * Most tokens of prompts that are read between two steps of the requests that run. At least 1.
     */
    uint32_t prefill_tokens;
    /**
     * Most steps that new prompts wait, while others run, to be read together.
     */
    uint32_t gather_steps;
    /**
     * Most prompts that stay in the cache when their requests have left, for others that begin alike.
     */
    uint32_t kept_prompts;
} colar_scheduler_params;

/**
 * A token near a latent.
 */
typedef struct colar_trace_token {
    /**
     * Its id.
     */
    uint32_t id;
    /**
     * Cosine between the latent and the token's embedding.
     */
    float cosine;
    /**
     * Its text.
     */
    const char *text;
    /**
     * Bytes of the text, without its NUL.
     */
    size_t text_len;
} colar_trace_token;

/**
 * The result of a request, all of it owned by this object. Later versions may have more fields at the end.
 */
typedef struct colar_generation {
    /**
     * The text, without special tokens: the answer, and under any method but colar the reasoning before it.
     */
    const char *text;
    /**
     * Bytes of the text, without its NUL.
     */
    size_t text_len;
    /**
     * The part of it after "Answer:"; NULL where there is none.
     */
    const char *answer;
    /**
     * Bytes of the answer, without its NUL.
     */
    size_t answer_len;
    /**
     * The tokens of the text, special ones too.
     */
    const uint32_t *tokens;
    /**
     * How many.
     */
    size_t n_tokens;
    /**
     * Latents or thoughts, and tokens of a reasoning in words.
     */
    size_t n_latents;
    /**
     * Why it ended.
     */
    enum colar_ending ending;
    /**
     * The tokens nearest to each latent, if they were asked for: trace[latent * trace_width + rank], nearest first.
     */
    const struct colar_trace_token *trace;
    /**
     * Latents in the trace.
     */
    size_t trace_len;
    /**
     * Tokens of each.
     */
    size_t trace_width;
    /**
     * Tokens of the prompt.
     */
    size_t prompt_tokens;
    /**
     * Those of them that a scheduler took over from another request.
     */
    size_t shared_prompt_tokens;
    /**
     * Tokens of the answer, the end of sequence included.
     */
    size_t answer_tokens;
    /**
     * Milliseconds until the prompt was read.
     */
    double prefill_ms;
    /**
     * Milliseconds of the reasoning.
     */
    double latents_ms;
    /**
     * Milliseconds of the answer.
     */
    double answer_ms;
    /**
     * Milliseconds from the submission to a scheduler until the request left the queue. NaN of a request that was in none, as
     * are the three below.
     */
    double queued_ms;
    /**
     * Until its first latent; NaN if there was none.
     */
    double first_latent_ms;
    /**
     * Until its first token; NaN if there was none.
     */
    double first_token_ms;
    /**
     * Until its end.
     */
    double total_ms;
} colar_generation;

/**
 * An event. It and its text are lent until the callback returns, or until the next call on the handle.
 */
typedef struct colar_event {
    /**
     * Its kind.
     */
    enum colar_event_kind kind;
    /**
     * The token of COLAR_EVENT_KIND_TOKEN.
     */
    uint32_t token;
    /**
     * A number, see the kinds.
     */
    uint64_t number;
    /**
     * The text that the event adds, in whole characters; never NULL, and empty while a character is not complete.
     */
    const char *text;
    /**
     * Bytes of the text, without its NUL.
     */
    size_t text_len;
} colar_event;

/**
 * Hears of an event; returns false to cancel the request, after which it is not called again. It may run on another thread
 * than the function that was given it, which waits meanwhile.
 */
typedef bool (*colar_event_callback)(const struct colar_event *event, void *user_data);

/**
 * How busy a scheduler is.
 */
typedef struct colar_scheduler_load {
    /**
     * Requests that wait.
     */
    size_t queued;
    /**
     * Requests that run.
     */
    size_t running;
    /**
     * Positions of the cache.
     */
    size_t cache_positions;
    /**
     * Positions set aside for the requests that run.
     */
    size_t used_positions;
    /**
     * Positions of prompts that are kept, which give way to requests.
     */
    size_t kept_positions;
} colar_scheduler_load;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The error of the last function that failed on this thread, in one line without a line feed; empty if none has. A function
 * that succeeds leaves it as it is. The text belongs to the thread, until the next function that fails there.
 */
const char *colar_last_error(void);

/**
 * The kind of that error.
 */
enum colar_status colar_last_status(void);

/**
 * The library's version, as "0.1.0"; never freed.
 */
const char *colar_version(void);

/**
 * Has `callback` hear the lines that the library logs, from now on and in place of the one before; NULL has nobody hear them, as
 * at the beginning. Once it returns, the one before is in no call any more, and is called no more. Returns false on error:
 * from within a callback of this kind, which cannot set another.
 */
bool colar_set_log_callback(colar_log_callback callback,
                            void *user_data);

/**
 * Parameters of colar_model_load() as they are without a wish.
 */
struct colar_model_params colar_model_default_params(void);

/**
 * Parameters of a request as they are without a wish.
 */
struct colar_request_params colar_request_default_params(void);

/**
 * Parameters of colar_scheduler_start() as they are without a wish.
 */
struct colar_scheduler_params colar_scheduler_default_params(void);

/**
 * Loads a model directory (config.json, weights, tokenizer.json), which takes a while. The caller owns the model; NULL on
 * error, also where the progress callback stopped it. The files must not be overwritten while the model lives: on the CPU
 * the weights stay in them.
 */
struct colar_model *colar_model_load(const char *path,
                                     const struct colar_model_params *params);

/**
 * Frees a model. Schedulers that were started on it, and requests in them, keep what they need and go on.
 */
void colar_model_free(struct colar_model *model);

/**
 * A line on what was loaded: model, checkpoint and its method, device and arithmetic. It belongs to the model; NULL on error.
 */
const char *colar_model_description(const struct colar_model *model);

/**
 * How it reasons unless a request says otherwise, as "colar" or "cot". It belongs to the model; NULL for a bare model, which
 * only continues texts (method "plain"), and on error.
 */
const char *colar_model_method(const struct colar_model *model);

/**
 * Writes the text of a token into `buffer` as snprintf does: at most size - 1 bytes and a NUL. Returns the bytes of the whole
 * text without its NUL, or -1 on error. A character may be spread over several tokens; events have whole ones.
 */
int64_t colar_model_token_text(const struct colar_model *model,
                               uint32_t token,
                               char *buffer,
                               size_t size);

/**
 * Frees a generation and all that it points to.
 */
void colar_generation_free(struct colar_generation *generation);

/**
 * Answers a question, or continues a text where the method is "plain", and returns when it is done. The caller owns the
 * generation; NULL on error.
 */
struct colar_generation *colar_generate(const struct colar_model *model,
                                        const char *text,
                                        const struct colar_request_params *params);

/**
 * As colar_generate(); `callback` hears of each event. A request that it cancels gives what there is, with the ending
 * COLAR_ENDING_CANCELLED. The callback must not generate with the same model.
 */
struct colar_generation *colar_generate_stream(const struct colar_model *model,
                                               const char *text,
                                               const struct colar_request_params *params,
                                               colar_event_callback callback,
                                               void *user_data);

/**
 * Starts a scheduler, which has a thread and a cache of its own. The caller owns it; NULL on error. The model may be freed
 * before it.
 */
struct colar_scheduler *colar_scheduler_start(const struct colar_model *model,
                                              const struct colar_scheduler_params *params);

/**
 * Appends a request to the queue and returns at once. After `timeout_ms` milliseconds the request ends with what there is; 0:
 * it has as long as it takes. The caller owns the handle, by which the request is read and steered; NULL on error, with
 * COLAR_STATUS_QUEUE_FULL where as many wait as may.
 */
struct colar_handle *colar_scheduler_submit(const struct colar_scheduler *scheduler,
                                            const char *text,
                                            const struct colar_request_params *params,
                                            uint64_t timeout_ms);

/**
 * How busy it is, as of its last step; all zeros on error.
 */
struct colar_scheduler_load colar_scheduler_get_load(const struct colar_scheduler *scheduler);

/**
 * Waits until all requests have ended, and frees the scheduler.
 */
void colar_scheduler_finish_and_free(struct colar_scheduler *scheduler);

/**
 * Cancels all requests, and frees the scheduler. Handles remain, and give what there is.
 */
void colar_scheduler_free(struct colar_scheduler *scheduler);

/**
 * Waits for the next event of a request and writes it to `event`: at most `timeout_ms` milliseconds; 0 does not wait, and a
 * negative number waits as long as it takes. Several threads may call it, but each event goes to one of them, and takes back
 * what the one before lent. The last event is COLAR_EVENT_KIND_DONE.
 */
enum colar_next colar_handle_next(const struct colar_handle *handle,
                                  int64_t timeout_ms,
                                  struct colar_event *event);

/**
 * Cancels a request from any thread: it ends before its next step, or where it waits, with what there is.
 */
void colar_handle_cancel(const struct colar_handle *handle);

/**
 * Ends the reasoning of a request after its next latent or token, from any thread: the answer follows from what was reasoned
 * so far.
 */
void colar_handle_end_reasoning(const struct colar_handle *handle);

/**
 * Waits for the end of a request, passing over events that were not read, and gives what it made; once more at each call.
 * The caller owns the generation; NULL where the request failed, and on error.
 */
struct colar_generation *colar_handle_wait(const struct colar_handle *handle);

/**
 * Frees a handle; a request that has not ended is cancelled.
 */
void colar_handle_free(struct colar_handle *handle);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* COLAR_ENGINE_H */
