/* What colar_engine.h promises, one function a promise; the first that is not kept ends the program with code 1. */

#include <colar_engine.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const QUESTION = "Tom has 3 boxes of 24 pens. How many pens has he?";

#define CHECK(condition)                                                                               \
    do {                                                                                               \
        if (!(condition)) {                                                                            \
            fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, colar_last_error()); \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

static void check_error(colar_status status, const char *part) {
    if (colar_last_status() != status || !strstr(colar_last_error(), part)) {
        fprintf(stderr, "an error with %s was expected: %d, %s\n", part, colar_last_status(), colar_last_error());
        exit(1);
    }
}

struct progress {
    int calls;
    uint64_t bytes;
    uint64_t total;
    bool goes_on;
};

static bool on_progress(uint64_t bytes, uint64_t total, void *user_data) {
    struct progress *progress = user_data;
    progress->calls++;
    if (bytes < progress->bytes || bytes > total) {
        progress->calls = -1000;
    }
    progress->bytes = bytes;
    progress->total = total;
    return progress->goes_on;
}

struct log {
    int lines;
    bool loaded;
};

static void on_log(colar_log_level level, const char *text, void *user_data) {
    struct log *log = user_data;
    log->lines++;
    if (strchr(text, '\n') || level < COLAR_LOG_LEVEL_ERROR || level > COLAR_LOG_LEVEL_INFO) {
        log->lines = -1000;
    }
    if (level == COLAR_LOG_LEVEL_INFO && !strncmp(text, "loaded ", 7) && strstr(text, "on cpu")) {
        log->loaded = true;
    }
    /* It cannot set another, nor wait for itself. */
    if (colar_set_log_callback(NULL, NULL)) {
        log->lines = -1000;
    }
}

/* A model tells how it is loaded, to the one who asked for it and as long as it is asked. */
static void logging(const char *path) {
    colar_model_params params = colar_model_default_params();
    params.device = "cpu";
    struct log log = {0}, other = {0};
    CHECK(colar_set_log_callback(on_log, &log));
    colar_model_free(colar_model_load(path, &params));
    CHECK(log.loaded && log.lines == 1);
    CHECK(colar_set_log_callback(on_log, &other));
    colar_model_free(colar_model_load(path, &params));
    CHECK(log.lines == 1 && other.loaded);
    check_error(COLAR_STATUS_USAGE, "`callback` cannot be set from within");
    CHECK(colar_set_log_callback(NULL, NULL));
    colar_model_free(colar_model_load(path, &params));
    CHECK(other.lines == 1);
}

static colar_model *loading(const char *path, const char *checkpoint) {
    CHECK(!*colar_last_error() && colar_last_status() == COLAR_STATUS_OK);
    CHECK(!colar_model_load(NULL, NULL));
    check_error(COLAR_STATUS_USAGE, "`path` is NULL");
    CHECK(!colar_model_load("\xff", NULL));
    check_error(COLAR_STATUS_USAGE, "`path` is not UTF-8");
    CHECK(!colar_model_load("no-such-model", NULL));
    check_error(COLAR_STATUS_OTHER, "no-such-model: no such directory");

    colar_model_params params = colar_model_default_params();
    CHECK(params.size == sizeof params);
    params.size -= 8;
    CHECK(!colar_model_load(path, &params));
    check_error(COLAR_STATUS_USAGE, "begin with colar_model_default_params()");
    params = colar_model_default_params();
    params.device = "gpu";
    CHECK(!colar_model_load(path, &params));
    check_error(COLAR_STATUS_USAGE, "`device`: unknown variant `gpu`, expected one of `auto`, `cpu`");

    struct progress progress = {.goes_on = false};
    params = colar_model_default_params();
    params.adapter = checkpoint;
    params.device = "cpu";
    params.threads = 2;
    params.allow_long = true; /* scheduling() has a request that goes on for long */
    params.progress = on_progress;
    params.user_data = &progress;
    CHECK(!colar_model_load(path, &params));
    check_error(COLAR_STATUS_OTHER, "loading was stopped");
    CHECK(progress.calls == 1 && progress.bytes == 0 && progress.total > 0);

    progress = (struct progress){.goes_on = true};
    colar_model *model = colar_model_load(path, &params);
    CHECK(model && progress.calls > 10 && progress.bytes == progress.total);
    CHECK(strstr(colar_model_description(model), "on cpu") && !strcmp(colar_model_method(model), "colar"));
    CHECK(!colar_model_description(NULL) && !colar_model_method(NULL));
    check_error(COLAR_STATUS_USAGE, "`model` is NULL");
    return model;
}

static void token_texts(const colar_model *model) {
    char text[64], cut[2] = {'x', 'x'};
    uint32_t token = 0;
    int64_t len;
    while ((len = colar_model_token_text(model, token, text, sizeof text)) < 2) {
        CHECK(len >= 0);
        token++;
    }
    CHECK((size_t)len == strlen(text));
    CHECK(colar_model_token_text(model, token, NULL, 0) == len);
    CHECK(colar_model_token_text(model, token, cut, sizeof cut) == len && cut[0] == text[0] && !cut[1]);
}

struct heard {
    size_t latents;
    size_t tokens;
    size_t done;
    size_t stop_after; /* latents; 0: never */
    char text[512];
};

static bool on_event(const colar_event *event, void *user_data) {
    struct heard *heard = user_data;
    heard->latents += event->kind == COLAR_EVENT_KIND_LATENT;
    heard->tokens += event->kind == COLAR_EVENT_KIND_TOKEN;
    heard->done += event->kind == COLAR_EVENT_KIND_DONE;
    if (event->kind == COLAR_EVENT_KIND_LATENT && event->number != heard->latents) {
        heard->latents = 10000;
    }
    strncat(heard->text, event->text, sizeof heard->text - strlen(heard->text) - 1);
    return !heard->stop_after || heard->latents < heard->stop_after;
}

static void generating(const colar_model *model) {
    colar_request_params params = colar_request_default_params();
    CHECK(params.size == sizeof params && params.max_latents == 64 && params.temperature == 1.0f);
    params.size = 0;
    CHECK(!colar_generate(model, QUESTION, &params));
    check_error(COLAR_STATUS_USAGE, "begin with colar_request_default_params()");
    CHECK(!colar_generate(NULL, QUESTION, NULL));
    CHECK(!colar_generate(model, NULL, NULL));
    check_error(COLAR_STATUS_USAGE, "`text` is NULL");
    params = colar_request_default_params();
    params.top_p = NAN;
    CHECK(!colar_generate(model, QUESTION, &params));
    check_error(COLAR_STATUS_USAGE, "`top_p`");
    params = colar_request_default_params();
    params.method = "thoughts";
    CHECK(!colar_generate(model, QUESTION, &params));
    check_error(COLAR_STATUS_USAGE, "`method`: unknown variant `thoughts`");
    params.method = "cot";
    params.compression_factor = "3";
    CHECK(!colar_generate(model, QUESTION, &params));
    check_error(COLAR_STATUS_USAGE, "`compression_factor` 3");

    params = colar_request_default_params();
    params.seed = 3;
    params.trace = true;
    struct heard heard = {0};
    colar_generation *made = colar_generate_stream(model, QUESTION, &params, on_event, &heard);
    CHECK(made && made->n_latents == heard.latents && made->n_tokens == heard.tokens && heard.done == 1);
    CHECK(!strcmp(made->text, heard.text) && made->text_len == strlen(made->text));
    CHECK(made->trace_len == made->n_latents && made->trace_width == 5);
    for (size_t i = 0; i < made->trace_len * made->trace_width; i++) {
        CHECK(made->trace[i].text_len == strlen(made->trace[i].text) && fabsf(made->trace[i].cosine) <= 1.0001f);
    }
    CHECK(made->answer == NULL || strstr(made->text, made->answer));
    CHECK(made->prompt_tokens > 0 && made->answer_tokens > 0 && isnan(made->total_ms) && isnan(made->queued_ms));
    CHECK(made->ending == COLAR_ENDING_FINISHED || made->ending == COLAR_ENDING_LIMIT);
    colar_generation *again = colar_generate(model, QUESTION, &params);
    CHECK(again && again->n_tokens == made->n_tokens);
    CHECK(!memcmp(again->tokens, made->tokens, made->n_tokens * sizeof *made->tokens));
    colar_generation_free(again);
    colar_generation_free(made);

    /* Cancelled by its callback. */
    params.separator_bias = -1e4f;
    heard = (struct heard){.stop_after = 2};
    made = colar_generate_stream(model, QUESTION, &params, on_event, &heard);
    CHECK(made && made->ending == COLAR_ENDING_CANCELLED && made->n_latents == 2 && made->n_tokens == 0);
    CHECK(heard.latents == 2 && heard.done == 0);
    colar_generation_free(made);

    /* A text that is continued. */
    params = colar_request_default_params();
    params.method = "plain";
    made = colar_generate(model, "Tom has", &params);
    CHECK(made && made->n_latents == 0 && made->n_tokens > 0 && made->trace_len == 0);
    colar_generation_free(made);
}

static void scheduling(colar_model *model) {
    colar_scheduler_params options = colar_scheduler_default_params();
    CHECK(options.size == sizeof options && options.max_running == 16);
    options.size = 1;
    CHECK(!colar_scheduler_start(model, &options));
    check_error(COLAR_STATUS_USAGE, "begin with colar_scheduler_default_params()");
    options = colar_scheduler_default_params();
    options.max_running = 0;
    CHECK(!colar_scheduler_start(model, &options));
    check_error(COLAR_STATUS_USAGE, "`max_running`");
    options.max_running = 1;
    options.max_queued = 1;
    colar_scheduler *scheduler = colar_scheduler_start(model, &options);
    CHECK(scheduler);

    /* The request that the model answers by itself. */
    colar_generation *alone = colar_generate(model, QUESTION, NULL);
    colar_handle *handle = colar_scheduler_submit(scheduler, QUESTION, NULL, 0);
    CHECK(alone && handle);
    colar_event event;
    char text[512] = "";
    size_t latents = 0, tokens = 0;
    colar_next next;
    while ((next = colar_handle_next(handle, -1, &event)) == COLAR_NEXT_EVENT) {
        latents += event.kind == COLAR_EVENT_KIND_LATENT;
        tokens += event.kind == COLAR_EVENT_KIND_TOKEN;
        strncat(text, event.text, sizeof text - strlen(text) - 1);
    }
    CHECK(next == COLAR_NEXT_END && event.kind == COLAR_EVENT_KIND_DONE);
    CHECK(colar_handle_next(handle, 0, &event) == COLAR_NEXT_END);
    for (int i = 0; i < 2; i++) {
        colar_generation *made = colar_handle_wait(handle);
        CHECK(made && made->n_latents == latents && made->n_tokens == tokens && !strcmp(made->text, text));
        CHECK(!strcmp(made->text, alone->text) && latents == alone->n_latents && made->ending == alone->ending);
        CHECK(made->queued_ms >= 0 && made->first_latent_ms >= made->queued_ms);
        CHECK(made->total_ms >= made->first_token_ms);
        colar_generation_free(made);
    }
    colar_handle_free(handle);
    colar_generation_free(alone);

    /* One that does not end by itself, and what comes behind it. */
    colar_request_params params = colar_request_default_params();
    params.separator_bias = -1e4f;
    params.max_latents = 3000;
    colar_handle *runs = colar_scheduler_submit(scheduler, QUESTION, &params, 0);
    CHECK(runs);
    do {
        CHECK(colar_handle_next(runs, -1, &event) == COLAR_NEXT_EVENT);
    } while (event.number < 2); /* its first step has been counted by then */
    colar_handle *waits = colar_scheduler_submit(scheduler, QUESTION, NULL, 0);
    CHECK(waits);
    CHECK(!colar_scheduler_submit(scheduler, QUESTION, NULL, 0));
    check_error(COLAR_STATUS_QUEUE_FULL, "the queue is full");
    colar_scheduler_load load = colar_scheduler_get_load(scheduler);
    CHECK(load.cache_positions == 4096 && load.used_positions > 3000);
    colar_handle_cancel(waits);
    colar_generation *made = colar_handle_wait(waits);
    CHECK(made && made->ending == COLAR_ENDING_CANCELLED);
    colar_generation_free(made);
    colar_handle_free(waits);
    /* The queue has room again, for one whose time is over before its turn. */
    waits = colar_scheduler_submit(scheduler, QUESTION, NULL, 1);
    CHECK(waits);
    made = colar_handle_wait(waits);
    CHECK(made && made->ending == COLAR_ENDING_DEADLINE && made->n_latents == 0 && isnan(made->first_latent_ms));
    colar_generation_free(made);
    CHECK(colar_handle_next(waits, 0, &event) == COLAR_NEXT_END);
    colar_handle_free(waits);
    colar_handle_end_reasoning(runs);
    made = colar_handle_wait(runs);
    CHECK(made && made->n_latents < 3000 && made->answer_tokens > 0);
    colar_generation_free(made);
    colar_handle_free(runs);

    /* Cancelled; and its handle lives on when scheduler and model are gone. */
    runs = colar_scheduler_submit(scheduler, QUESTION, &params, 0);
    CHECK(runs);
    colar_handle_cancel(runs);
    made = colar_handle_wait(runs);
    CHECK(made && made->ending == COLAR_ENDING_CANCELLED);
    colar_generation_free(made);
    colar_handle_free(runs);
    runs = colar_scheduler_submit(scheduler, QUESTION, &params, 0);
    CHECK(runs);
    colar_model_free(model);
    colar_scheduler_free(scheduler);
    made = colar_handle_wait(runs);
    CHECK(made && made->ending == COLAR_ENDING_CANCELLED);
    colar_generation_free(made);
    colar_handle_free(runs);
}

static void nothing(void) {
    colar_model_free(NULL);
    colar_generation_free(NULL);
    colar_scheduler_free(NULL);
    colar_scheduler_finish_and_free(NULL);
    colar_handle_free(NULL);
    colar_handle_cancel(NULL);
    check_error(COLAR_STATUS_USAGE, "`handle` is NULL");
    CHECK(!colar_handle_wait(NULL) && colar_handle_next(NULL, 0, NULL) == COLAR_NEXT_ERROR);
    CHECK(!colar_scheduler_submit(NULL, QUESTION, NULL, 0));
    check_error(COLAR_STATUS_USAGE, "`scheduler` is NULL");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: contract MODEL CHECKPOINT\n");
        return 2;
    }
    colar_model *model = loading(argv[1], argv[2]);
    token_texts(model);
    generating(model);
    scheduling(model);
    nothing();
    logging(argv[1]);
    printf("version %s\n", colar_version());
    return 0;
}
