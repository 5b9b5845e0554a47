/* A stand-in for NVIDIA's driver library. The environment variable FAKE_NVML selects its behaviour:
   "ok N" (N GPUs), "abort", "hang", "error CODE" (initialisation fails), "lost" (the first of two GPUs
   refuses every query), "silent" (the versions are unknown), "divided N" (one GPU in MIG mode with
   N instances; the memory of the whole GPU cannot be queried), "shared" (the GPU shares the computer's
   memory). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;

static const char *told(void) { const char *text = getenv("FAKE_NVML"); return text ? text : "ok 1"; }
static int is(const char *word) { return strncmp(told(), word, strlen(word)) == 0; }

int nvmlInit_v2(void) {
    int code = 0;
    if (is("abort")) abort();
    if (is("hang")) for (;;) sleep(60);
    if (is("error")) sscanf(told(), "error %d", &code);
    return code;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    if (is("silent")) return 999;
    snprintf(text, length, "550.54.15");
    return 0;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    if (is("silent")) return 999;
    *version = 12040;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = is("lost") ? 2 : 1;
    if (is("ok")) sscanf(told(), "ok %u", count);
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(size_t)(index + 1);
    return 0;
}

static int refused(void *handle) { return is("lost") && handle == (void *)1 ? 15 : 0; }

int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
    snprintf(text, length, "Fake GPU %zu", (size_t)handle - 1);
    return refused(handle);
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    if ((size_t)handle > 100) snprintf(text, length, "MIG-%zu0000000-aaaa", (size_t)handle - 101);
    else snprintf(text, length, "GPU-%zu0000000-aaaa", (size_t)handle - 1);
    return refused(handle);
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    if (is("divided") && (size_t)handle < 100) return 4;
    if (is("shared")) return 3;
    memory->total = 8000000000ULL;
    memory->free = 6000000000ULL + (size_t)handle;
    memory->used = memory->total - memory->free;
    return refused(handle);
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    if (!is("divided")) return 3;
    *current = *pending = 1;
    return 0;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    *count = 7;
    return 0;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    unsigned count = 0;
    sscanf(told(), "divided %u", &count);
    *instance = (void *)(size_t)(101 + index);
    return index < count ? 0 : 6;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    *id = (unsigned)(size_t)handle;
    return 0;
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    *id = 0;
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = 8;
    *minor = 6;
    return refused(handle);
}
