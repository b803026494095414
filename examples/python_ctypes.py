"""The C library from Python without any package: asks one question, and shows latents and answer as they come.

    cargo build --release -p colar-engine-capi
    python3 examples/python_ctypes.py target/release/libcolar_engine.so MODEL CHECKPOINT QUESTION
"""

import ctypes as c
import sys


class ModelParams(c.Structure):
    _fields_ = [("size", c.c_size_t), ("adapter", c.c_char_p), ("device", c.c_char_p), ("dtype", c.c_char_p),
                ("lora", c.c_char_p), ("prompt_template", c.c_char_p), ("threads", c.c_uint32),
                ("allow_long", c.c_bool), ("progress", c.c_void_p), ("user_data", c.c_void_p)]


class Event(c.Structure):
    _fields_ = [("kind", c.c_int), ("token", c.c_uint32), ("number", c.c_uint64), ("text", c.c_char_p),
                ("text_len", c.c_size_t)]


LATENT = 2  # COLAR_EVENT_KIND_LATENT
EventCallback = c.CFUNCTYPE(c.c_bool, c.POINTER(Event), c.c_void_p)

path, model_dir, checkpoint, question = sys.argv[1:]
lib = c.CDLL(path)
lib.colar_model_default_params.restype = ModelParams
lib.colar_model_load.restype = lib.colar_generate_stream.restype = c.c_void_p
lib.colar_last_error.restype = c.c_char_p
lib.colar_generate_stream.argtypes = [c.c_void_p, c.c_char_p, c.c_void_p, EventCallback, c.c_void_p]
lib.colar_generation_free.argtypes = lib.colar_model_free.argtypes = [c.c_void_p]

params = lib.colar_model_default_params()
params.adapter = checkpoint.encode()
model = lib.colar_model_load(model_dir.encode(), c.byref(params)) or sys.exit(lib.colar_last_error().decode())


@EventCallback
def show(event, _):
    print("·" if event[0].kind == LATENT else event[0].text.decode(), end="", flush=True)
    return True


made = lib.colar_generate_stream(model, question.encode(), None, show, None)
print() if made else sys.exit(lib.colar_last_error().decode())
lib.colar_generation_free(made)
lib.colar_model_free(model)
