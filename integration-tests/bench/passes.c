/* A model as a script on stdin describes it, loaded as llama.cpp loads one (see llama_like.c), and the time that passes
 * over its weights take: the program behind `cargo xtask bench predict` and `bench stream`.
 *
 *   tensor NAME COLS ROWS EXPERTS USED   a weight in Q8_0; EXPERTS is 1 in a dense model
 *   buffers KV SCRATCH                   bytes of what is allocated behind the weights, in pieces smaller than those
 *   load tensors|blind                   allocates and uploads; blind: nobody says what the buffer holds
 *   decode N                             mat-vec products, of as many experts as are used
 *   prefill N TOKENS TILE NS SLOWER      products with a batch: NS for a weight and a token (but the output's last token
 *                                        only), SLOWER times as long for experts, since each gets its share of the batch;
 *                                        the weights are read once for every TILE tokens
 *   fixed N NS                           products that take NS each, whatever their size
 *   graph N NS                           the same, captured once
 *   beside N NS EVERY CPU_NS             the same, but behind every EVERY weights the program waits and computes for so long
 *                                        by itself, as with layers that are left to the CPU
 *   beside-graphs N NS EVERY CPU_NS      the same, each part between two waits captured once, as llama.cpp does
 *   report                               the sum of all that was read
 *
 * prints a line `WHAT SECONDS ...` for each of these, one figure a pass, and
 * `checksum ...`, which must not depend on where the weights are. It lives until stdin ends, so that one can look at it.
 */
#define CU_FUNCTIONS(X) CU_CORE(X) CU_COPIES(X) CU_STREAMS(X) CU_ASYNC(X)
#include "../fixtures/c/check.h"
#include "../fixtures/c/ggml_like.h"
#include "../fixtures/c/ggml_cuda.h"

#include <time.h>

enum { MOST_TENSORS = 512, BLOCK = 32, BLOCK_BYTES = 34 };

struct shape {
    unsigned cols, rows, experts, used;
    int is_output;
};

static void *library;
static struct gpu gpu;
static CUstream stream;
static CUfunction matvec, batch;
static struct ggml_tensor tensors[MOST_TENSORS];
static struct shape shapes[MOST_TENSORS];
static size_t n_tensors;
static CUdeviceptr x, y, sum;

static void *get(const struct cu_name *name)
{
    return dlsym(library, name->symbol);
}

/* The model. */

static size_t row_bytes(const struct shape *shape)
{
    return (size_t)shape->cols / BLOCK * BLOCK_BYTES;
}

static void upload(size_t index)
{
    struct ggml_tensor *tensor = &tensors[index];
    unsigned char *blocks = malloc(tensor->bytes);
    uint32_t state = (uint32_t)index * 2654435761u + 1;
    for (size_t i = 0; i < tensor->bytes; i++) {
        state = state * 1664525u + 1013904223u;
        blocks[i] = (unsigned char)(state >> 24);
    }
    /* Scales that keep sums finite: half floats around 2^-8. */
    for (size_t i = 1; i < tensor->bytes; i += BLOCK_BYTES)
        blocks[i] = 0x1c;
    ggml_backend_tensor_set(tensor, blocks, 0, tensor->bytes);
    free(blocks);
}

static void load(int blind)
{
    struct ggml_backend_buffer *buffer = ggml_backend_alloc_ctx_tensors(&cuda, tensors, n_tensors);
    if (!blind)
        ggml_backend_buffer_set_usage(buffer, USAGE_WEIGHTS);
    for (size_t i = 0; i < n_tensors; i++)
        upload(i);
}

static void multiply(const struct ggml_tensor *tensor, const struct shape *shape, unsigned expert)
{
    CUdeviceptr w = address(tensor->data) + expert * shape->rows * row_bytes(shape);
    unsigned rows = shape->rows, cols = shape->cols;
    void *params[] = {&w, &x, &y, &rows, &cols};
    gpu_launch(matvec, stream, params);
}

static void read_all(const struct ggml_tensor *tensor, uint64_t ns, unsigned times)
{
    CUdeviceptr w = address(tensor->data);
    uint64_t words = tensor->bytes / 4;
    void *params[] = {&w, &words, &sum, &ns, &times};
    gpu_launch(batch, stream, params);
}

/* Passes. */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double finish(double from)
{
    CHECK(CU(cuStreamSynchronize)(stream));
    printf(" %.6f", now() - from);
    return now();
}

static void decode(int passes)
{
    printf("decode");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        for (size_t i = 0; i < n_tensors; i++)
            for (unsigned k = 0; k < shapes[i].used; k++)
                multiply(&tensors[i], &shapes[i], (pass * 5 + k * (shapes[i].experts / shapes[i].used)) % shapes[i].experts);
        finish(from);
    }
    putchar('\n');
}

static void prefill(int passes, unsigned tokens, unsigned tile, double ns, double slower)
{
    printf("prefill");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        for (size_t i = 0; i < n_tensors; i++) {
            const struct shape *shape = &shapes[i];
            double weights = (double)shape->cols * shape->rows * shape->used;
            double each = ns * (shape->is_output ? 1 : tokens) * (shape->experts > 1 ? slower : 1);
            unsigned share = tokens * shape->used / shape->experts;
            read_all(&tensors[i], (uint64_t)(weights * each), (share + tile - 1) / tile);
        }
        finish(from);
    }
    putchar('\n');
}

static void fixed(int passes, uint64_t ns)
{
    printf("fixed");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        for (size_t i = 0; i < n_tensors; i++)
            read_all(&tensors[i], ns, 1);
        finish(from);
    }
    putchar('\n');
}

static void graph(int passes, uint64_t ns)
{
    CUgraph captured;
    CUgraphExec exec;
    CHECK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (size_t i = 0; i < n_tensors; i++)
        read_all(&tensors[i], ns, 1);
    CHECK(CU(cuStreamEndCapture)(stream, &captured));
    CHECK(CU(cuGraphInstantiateWithFlags)(&exec, captured, 0));
    printf("graph");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        CHECK(CU(cuGraphLaunch)(exec, stream));
        finish(from);
    }
    putchar('\n');
    CHECK(CU(cuGraphExecDestroy)(exec));
    CHECK(CU(cuGraphDestroy)(captured));
}

/* The CPU's part: it waits for the GPU, and its own work does not disturb the simulation's. */
static void on_the_cpu(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    CHECK(CU(cuStreamSynchronize)(stream));
    while (nanosleep(&t, &t))
        ;
}

static void part(size_t from, size_t end, uint64_t ns)
{
    for (size_t i = from; i < end && i < n_tensors; i++)
        read_all(&tensors[i], ns, 1);
}

static void beside(int passes, uint64_t ns, size_t every, uint64_t cpu_ns)
{
    printf("beside");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        for (size_t i = 0; i < n_tensors; i += every) {
            part(i, i + every, ns);
            on_the_cpu(cpu_ns);
        }
        finish(from);
    }
    putchar('\n');
}

static void beside_graphs(int passes, uint64_t ns, size_t every, uint64_t cpu_ns)
{
    static CUgraphExec execs[MOST_TENSORS];
    for (size_t i = 0; i < n_tensors; i += every) {
        CUgraph captured;
        CHECK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        part(i, i + every, ns);
        CHECK(CU(cuStreamEndCapture)(stream, &captured));
        CHECK(CU(cuGraphInstantiateWithFlags)(&execs[i], captured, 0));
        CHECK(CU(cuGraphDestroy)(captured));
    }
    printf("beside-graphs");
    for (int pass = 0; pass < passes; pass++) {
        double from = now();
        for (size_t i = 0; i < n_tensors; i += every) {
            CHECK(CU(cuGraphLaunch)(execs[i], stream));
            on_the_cpu(cpu_ns);
        }
        finish(from);
    }
    putchar('\n');
    for (size_t i = 0; i < n_tensors; i += every)
        CHECK(CU(cuGraphExecDestroy)(execs[i]));
}

static void open_device(void)
{
    library = driver_library();
    cu_resolve(get);
    if (!gpu_open(&gpu))
        fail("no device");
    gpu_load(&gpu);
    CHECK(CU(cuModuleGetFunction)(&matvec, gpu.module, "gb_matvec_q8"));
    CHECK(CU(cuModuleGetFunction)(&batch, gpu.module, "gb_weights_u32"));
    CHECK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(CU(cuMemAlloc_v2)(&sum, 8));
    CHECK(CU(cuMemsetD32_v2)(sum, 0, 2));
}

static void add_tensor(const struct shape *shape, const char *name)
{
    if (n_tensors == MOST_TENSORS)
        fail("too many tensors");
    struct ggml_tensor *tensor = &tensors[n_tensors];
    shapes[n_tensors] = *shape;
    shapes[n_tensors++].is_output = !strcmp(name, "output.weight");
    tensor->bytes = row_bytes(shape) * shape->rows * shape->experts;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
}

/* Allocated and written to, in pieces: the weights are the largest allocation of a program, and these are not read. */
static CUdeviceptr add_buffer(size_t bytes)
{
    enum { PIECE = 16 << 20 };
    CUdeviceptr first = 0;
    for (size_t done = 0; done < bytes; done += PIECE) {
        size_t piece = bytes - done < PIECE ? bytes - done : PIECE;
        CUdeviceptr at = address(allocate(piece));
        CHECK(CU(cuMemsetD8_v2)(at, 0, piece));
        first = first ? first : at;
    }
    return first;
}

/* The cache, and scratch with room for the widest product at its start. */
static void add_buffers(size_t kv, size_t scratch)
{
    unsigned cols = 0, rows = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        cols = shapes[i].cols > cols ? shapes[i].cols : cols;
        rows = shapes[i].rows > rows ? shapes[i].rows : rows;
    }
    if (scratch < cols + 4 * (size_t)rows)
        fail("scratch is too small for a product");
    add_buffer(kv);
    x = add_buffer(scratch);
    y = x + cols;
    CHECK(CU(cuMemsetD8_v2)(x, 3, cols));
    CHECK(CU(cuCtxSynchronize)());
}

static void report(void)
{
    uint64_t total = 0;
    CHECK(CU(cuCtxSynchronize)());
    CHECK(CU(cuMemcpyDtoH_v2)(&total, sum, sizeof total));
    printf("checksum %#llx %#llx\n", (unsigned long long)total, (unsigned long long)gpu_checksum(&gpu, y, 64, sum));
    fflush(stdout);
}

int main(void)
{
    char line[256], name[64];
    size_t kv = 0, scratch = 1 << 20;
    struct shape shape;
    unsigned tokens, tile;
    int passes;
    double ns, slower, cpu_ns;
    size_t every;

    open_device();
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "tensor %63s %u %u %u %u", name, &shape.cols, &shape.rows, &shape.experts, &shape.used) == 5)
            add_tensor(&shape, name);
        else if (sscanf(line, "buffers %zu %zu", &kv, &scratch) == 2)
            continue;
        else if (sscanf(line, "load %63s", name) == 1) {
            load(!strcmp(name, "blind"));
            add_buffers(kv, scratch);
        } else if (sscanf(line, "decode %d", &passes) == 1)
            decode(passes);
        else if (sscanf(line, "prefill %d %u %u %lf %lf", &passes, &tokens, &tile, &ns, &slower) == 5)
            prefill(passes, tokens, tile, ns, slower);
        else if (sscanf(line, "fixed %d %lf", &passes, &ns) == 2)
            fixed(passes, (uint64_t)ns);
        else if (sscanf(line, "graph %d %lf", &passes, &ns) == 2)
            graph(passes, (uint64_t)ns);
        else if (sscanf(line, "beside %d %lf %zu %lf", &passes, &ns, &every, &cpu_ns) == 4 && every)
            beside(passes, (uint64_t)ns, every, (uint64_t)cpu_ns);
        else if (sscanf(line, "beside-graphs %d %lf %zu %lf", &passes, &ns, &every, &cpu_ns) == 4 && every)
            beside_graphs(passes, (uint64_t)ns, every, (uint64_t)cpu_ns);
        else if (!strcmp(line, "report\n"))
            report();
        else
            fail("what is '%s'?", line);
    }
    return 0;
}
