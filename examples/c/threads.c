/*
 * Four threads ask one model at the same time, by themselves and through a scheduler, and a fifth cancels one of them.
 *
 *   cargo build --release -p colar-engine-capi
 *   cc -std=c11 -fsanitize=thread -Icapi/include examples/c/threads.c -Ltarget/release -lcolar_engine -lpthread -o threads
 *   TSAN_OPTIONS=ignore_noninstrumented_modules=1 LD_LIBRARY_PATH=target/release ./threads MODEL CHECKPOINT
 *
 * ThreadSanitizer sees what the code here does to memory, and so finds threads and callbacks that use it without order. It
 * does not see the accesses within the library, which rustc compiled without it, nor Rust's locks, which are futexes and no
 * pthread mutexes; the option tells it not to judge what the library copies and frees, for it would take all of that for
 * races. For the same reason helgrind, which sees every access and no futex, tells nothing of use. An object that one thread
 * frees while another reads it is found by valgrind's memcheck, under which this program runs too. That the library's own
 * code has no races is what Rust's types say: its `unsafe` blocks are few, and each says why it is sound.
 */

#include <colar_engine.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 4, CANCELLED = 3 };

static const char *const QUESTION = "Tom has 3 boxes of 24 pens and gives 10 away. How many are left?";

struct shared {
    colar_model *model;
    colar_scheduler *scheduler;
    colar_handle *to_cancel;
    atomic_bool begun; /* the request to cancel has drawn a latent */
    atomic_bool cancelled;
};

struct job {
    struct shared *shared;
    int number;
    char text[256];
    size_t n_latents;
};

static void check(bool good, const char *what) {
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, colar_last_error());
        exit(1);
    }
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Callbacks come from threads of the library, one after the other: what they count needs no lock but their order. */
static bool count(const colar_event *event, void *user_data) {
    if (event->kind == COLAR_EVENT_KIND_LATENT) {
        atomic_fetch_add((atomic_size_t *)user_data, 1);
    }
    return true;
}

/* Reads the events of a request to the last; gives what it made. */
static colar_generation *read_all(struct shared *shared, colar_handle *handle) {
    colar_event event;
    colar_next next;
    while ((next = colar_handle_next(handle, -1, &event)) == COLAR_NEXT_EVENT) {
        if (handle == shared->to_cancel && event.kind == COLAR_EVENT_KIND_LATENT) {
            atomic_store(&shared->begun, true);
        }
    }
    check(next == COLAR_NEXT_END, "next");
    return colar_handle_wait(handle);
}

static void *work(void *user_data) {
    struct job *job = user_data;
    struct shared *shared = job->shared;

    /* By itself. */
    atomic_size_t latents = 0;
    colar_generation *made = colar_generate_stream(shared->model, QUESTION, NULL, count, &latents);
    check(made && made->n_latents == atomic_load(&latents), "generate");
    job->n_latents = made->n_latents;
    snprintf(job->text, sizeof job->text, "%s", made->text);
    colar_generation_free(made);

    /* Through the scheduler. */
    bool is_cancelled = job->number == CANCELLED;
    colar_handle *handle =
        is_cancelled ? shared->to_cancel : colar_scheduler_submit(shared->scheduler, QUESTION, NULL, 0);
    check(handle, "submit");
    made = read_all(shared, handle);
    check(made, "wait");
    if (is_cancelled) {
        check(made->ending == COLAR_ENDING_CANCELLED, "the ending of what was cancelled");
        while (!atomic_load(&shared->cancelled)) {
            nap(); /* the other thread still uses the handle */
        }
    } else {
        check(made->n_latents == job->n_latents && !strcmp(made->text, job->text), "another text in company");
    }
    colar_generation_free(made);
    colar_handle_free(handle);

    /* Errors are the thread's own. */
    char method[16];
    snprintf(method, sizeof method, "none-%d", job->number);
    colar_request_params params = colar_request_default_params();
    params.method = method;
    check(!colar_generate(shared->model, QUESTION, &params), "a method that is none");
    check(strstr(colar_last_error(), method) && colar_last_status() == COLAR_STATUS_USAGE, "the error");
    return NULL;
}

static void *cancel(void *user_data) {
    struct shared *shared = user_data;
    while (!atomic_load(&shared->begun)) {
        nap();
    }
    colar_handle_cancel(shared->to_cancel);
    atomic_store(&shared->cancelled, true);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: threads MODEL CHECKPOINT\n");
        return 2;
    }
    struct shared shared = {0};
    colar_model_params model_params = colar_model_default_params();
    model_params.adapter = argv[2];
    model_params.device = "cpu";
    model_params.allow_long = true;
    check((shared.model = colar_model_load(argv[1], &model_params)), "load");
    colar_scheduler_params scheduler_params = colar_scheduler_default_params();
    scheduler_params.cache_positions = 65536;
    check((shared.scheduler = colar_scheduler_start(shared.model, &scheduler_params)), "start");

    /* One that would draw latents for long. */
    colar_request_params params = colar_request_default_params();
    params.separator_bias = -1e4f;
    params.max_latents = 50000;
    check((shared.to_cancel = colar_scheduler_submit(shared.scheduler, QUESTION, &params, 0)), "submit");

    struct job jobs[THREADS];
    pthread_t threads[THREADS], canceller;
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.shared = &shared, .number = i};
        check(!pthread_create(&threads[i], NULL, work, &jobs[i]), "thread");
    }
    check(!pthread_create(&canceller, NULL, cancel, &shared), "thread");
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        check(!strcmp(jobs[i].text, jobs[0].text), "the same seed gave another text");
    }
    pthread_join(canceller, NULL);
    colar_scheduler_finish_and_free(shared.scheduler);
    colar_model_free(shared.model);
    printf("%zu latents, then %s\n", jobs[0].n_latents, jobs[0].text);
    return 0;
}
