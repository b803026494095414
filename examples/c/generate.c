/*
 * Loads a model with a progress report, and shows an answer while it is written: a dot for each latent, then the text, then
 * the tokens nearest to each latent.
 *
 *   cargo build --release -p colar-engine-capi
 *   cc -Icapi/include examples/c/generate.c -Ltarget/release -lcolar_engine -o generate
 *   LD_LIBRARY_PATH=target/release ./generate MODEL CHECKPOINT "Tom has 3 boxes of 24 pens. How many pens?"
 */

#include <colar_engine.h>
#include <stdio.h>

static bool on_progress(uint64_t bytes, uint64_t total, void *user_data) {
    (void)user_data;
    fprintf(stderr, "\rloading: %3.0f %%", total ? 100.0 * (double)bytes / (double)total : 100.0);
    return true; /* false would stop it */
}

static bool on_event(const colar_event *event, void *user_data) {
    FILE *out = user_data;
    if (event->kind == COLAR_EVENT_KIND_LATENT) {
        fputs(".", out);
    }
    fwrite(event->text, 1, event->text_len, out);
    fflush(out);
    return true; /* false would cancel the request */
}

static int failed(void) {
    fprintf(stderr, "error: %s\n", colar_last_error());
    return colar_last_status() == COLAR_STATUS_USAGE ? 2 : 1;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: generate MODEL CHECKPOINT QUESTION\n");
        return 2;
    }
    colar_model_params model_params = colar_model_default_params();
    model_params.adapter = argv[2];
    model_params.progress = on_progress;
    colar_model *model = colar_model_load(argv[1], &model_params);
    fputs("\n", stderr);
    if (!model) {
        return failed();
    }
    fprintf(stderr, "%s\n", colar_model_description(model));

    colar_request_params params = colar_request_default_params();
    params.compression_factor = "2";
    params.temperature = 0; /* latents are drawn, the answer is not */
    params.seed = 7;
    params.trace = true;
    colar_generation *made = colar_generate_stream(model, argv[3], &params, on_event, stdout);
    if (!made) {
        int code = failed();
        colar_model_free(model);
        return code;
    }
    printf("\n%zu latents in %.1f ms, then %zu tokens in %.1f ms\n", made->n_latents, made->latents_ms,
           made->answer_tokens, made->answer_ms);
    for (size_t latent = 0; latent < made->trace_len; latent++) {
        printf("latent %zu:", latent + 1);
        for (size_t rank = 0; rank < made->trace_width; rank++) {
            const colar_trace_token *near = &made->trace[latent * made->trace_width + rank];
            printf("  %s %.2f", near->text, near->cosine);
        }
        printf("\n");
    }
    colar_generation_free(made);
    colar_model_free(model);
    return 0;
}
