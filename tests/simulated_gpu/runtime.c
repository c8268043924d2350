/* A stand-in for CUDA's runtime (libcudart) on a machine without a GPU, for LD_PRELOAD.
 *
 * Device memory is host memory. Streams and events do nothing, because all work is done at once.
 * What is kept are the rules of the host side: which calls wait for the device, which copies come
 * from pageable memory, and which calls a stream capture forbids, by thread and capture mode.
 * Each such event is reported to one callback (runtime.py) as a text:
 *
 *   "WAIT ..."        the host would wait for the device here
 *   "PAGEABLE ..."    a copy to the device from memory that is not pinned, which waits too
 *   "FORBIDDEN ..."   not permitted while a stream captures; answered by an error as CUDA does
 *   "capture begins", "capture ends N", "graph launch N"
 *   "KERNEL"          a device kernel, which nothing computes
 */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"))) cudaError_t
#define EXPORT __attribute__((visibility("default")))
enum { OK = 0, OUT_OF_MEMORY = 2, NO_SUCH_DEVICE = 101, NOT_PERMITTED = 900, INVALIDATED = 901 };

typedef void (*callback_t)(const char *what);
static callback_t callback;
EXPORT void simulated_callback(callback_t chosen) { callback = chosen; }
static void tell(const char *what) {
  if (callback) callback(what);
}

/* ---- errors: each thread has its last one ---- */
static __thread cudaError_t last;
static cudaError_t fail(cudaError_t error) {
  if (error) last = error;
  return error;
}
API cudaGetLastError(void) {
  cudaError_t error = last;
  last = OK;
  return error;
}
API cudaPeekAtLastError(void) { return last; }
EXPORT const char *cudaGetErrorName(cudaError_t error) {
  return error ? "cudaErrorSimulated" : "cudaSuccess";
}
EXPORT const char *cudaGetErrorString(cudaError_t error) {
  switch ((int)error) {
    case OK: return "no error";
    case OUT_OF_MEMORY: return "simulated device: out of memory";
    case NO_SUCH_DEVICE: return "simulated device: there is only device 0";
    case NOT_PERMITTED: return "simulated device: not permitted while a stream captures";
    case INVALIDATED: return "simulated device: the capture was invalidated before its end";
    default: return "simulated device: error";
  }
}

/* ---- stream capture: one at a time ---- */
static int capturing, invalid;
static pthread_t capturer;
static cudaStream_t captured;
static enum cudaStreamCaptureMode begun;
static __thread enum cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

API cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *exchanged) {
  enum cudaStreamCaptureMode was = mode;
  mode = *exchanged;
  *exchanged = was;
  return OK;
}

/* Whether a potentially unsafe call is forbidden now: CUDA's rule for the three capture modes. */
static cudaError_t unsafe(const char *what) {
  if (!capturing || mode == cudaStreamCaptureModeRelaxed) return OK;
  int own = pthread_equal(capturer, pthread_self());
  int forbidden = own ? begun != cudaStreamCaptureModeRelaxed
                      : begun == cudaStreamCaptureModeGlobal && mode == cudaStreamCaptureModeGlobal;
  if (!forbidden) return OK;
  char text[200];
  snprintf(text, sizeof text, "FORBIDDEN in a capture: %s (%s thread)", what,
           own ? "capturing" : "another");
  tell(text);
  invalid = 1;
  return fail(NOT_PERMITTED);
}

API cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode asked) {
  if (stream == 0) return fail(NOT_PERMITTED);
  capturing = 1;
  invalid = 0;
  captured = stream;
  capturer = pthread_self();
  begun = asked;
  tell("capture begins");
  return OK;
}
API cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph, const cudaGraphNode_t *nodes,
                                  const cudaGraphEdgeData *edges, size_t count,
                                  enum cudaStreamCaptureMode asked) {
  return cudaStreamBeginCapture(stream, asked);
}
API cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  static long made;
  char text[40];
  capturing = 0;
  snprintf(text, sizeof text, "capture ends %ld", ++made);
  tell(text);
  if (graph) *graph = (cudaGraph_t)made;
  return invalid ? fail(INVALIDATED) : OK;
}
API cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = !capturing || stream != captured ? cudaStreamCaptureStatusNone
            : invalid                        ? cudaStreamCaptureStatusInvalidated
                                             : cudaStreamCaptureStatusActive;
  return OK;
}
API cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                             unsigned long long *id, cudaGraph_t *graph,
                             const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                             size_t *count) {
  cudaStreamIsCapturing(stream, status);
  if (id) *id = 1;
  if (graph) *graph = 0;
  if (nodes) *nodes = 0;
  if (edges) *edges = 0;
  if (count) *count = 0;
  return OK;
}
API cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t *n, const cudaGraphEdgeData *e,
                                        size_t count, unsigned flags) { return OK; }

/* ---- graphs: a graph and its executable are the number of the capture ---- */
API cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
  *made = (cudaGraphExec_t)graph;
  return OK;
}
API cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(made, graph, flags);
}
API cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  char text[40];
  snprintf(text, sizeof text, "graph launch %ld", (long)graph);
  tell(text);
  return OK;
}
API cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
  *count = 1;
  return OK;
}
API cudaGraphNodeGetDependencies(cudaGraphNode_t a, cudaGraphNode_t *b, cudaGraphEdgeData *c, size_t *n) {
  *n = 0;
  return OK;
}
API cudaGraphDestroy(cudaGraph_t graph) { return OK; }
API cudaGraphExecDestroy(cudaGraphExec_t graph) { return OK; }
API cudaUserObjectCreate(cudaUserObject_t *made, void *p, cudaHostFn_t destroy, unsigned n, unsigned f) {
  *made = (cudaUserObject_t)malloc(16);
  return OK;
}
API cudaUserObjectRelease(cudaUserObject_t object, unsigned count) { return OK; }
API cudaGraphRetainUserObject(cudaGraph_t g, cudaUserObject_t o, unsigned n, unsigned f) { return OK; }

/* ---- the device: one, with an H100's numbers where torch asks for them ---- */
API cudaGetDeviceCount(int *count) { *count = 1; return OK; }
API cudaGetDevice(int *device) { *device = 0; return OK; }
API cudaSetDevice(int device) { return device ? fail(NO_SUCH_DEVICE) : OK; }
API cudaDriverGetVersion(int *version) { *version = 13000; return OK; }
API cudaRuntimeGetVersion(int *version) { *version = 13000; return OK; }
API cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Simulated GPU");
  p->totalGlobalMem = 8ull << 30;
  p->major = 9;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->l2CacheSize = 50 << 20;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->unifiedAddressing = 1;
  p->memoryBusWidth = 5120;
  return OK;
}
API cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    default: *value = 0;
  }
  return OK;
}
API cudaDeviceGetPCIBusId(char *text, int size, int device) {
  snprintf(text, size, "0000:00:00.0");
  return OK;
}
API cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return OK; }
API cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return OK;
}
API cudaDeviceSynchronize(void) {
  cudaError_t error = unsafe("cudaDeviceSynchronize");
  if (!error) tell("WAIT cudaDeviceSynchronize");
  return error;
}

/* ---- memory: who owns an address, device or pinned ---- */
#define MOST 65536
typedef struct {
  void *at[MOST];
  size_t size[MOST];
  int count;
} Table;
static Table device_memory, pinned_memory;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int holds(Table *table, const void *p) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < table->count && !found; i++)
    found = (char *)p >= (char *)table->at[i] && (char *)p < (char *)table->at[i] + table->size[i];
  pthread_mutex_unlock(&lock);
  return found;
}
static int put(Table *table, void *p, size_t size) {
  pthread_mutex_lock(&lock);
  int room = table->count < MOST;
  if (room) {
    table->at[table->count] = p;
    table->size[table->count++] = size;
  }
  pthread_mutex_unlock(&lock);
  return room;
}
static void drop(Table *table, void *p) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < table->count; i++)
    if (table->at[i] == p) {
      table->count--;
      table->at[i] = table->at[table->count];
      table->size[i] = table->size[table->count];
      break;
    }
  pthread_mutex_unlock(&lock);
}
static cudaError_t allocate(Table *table, void **p, size_t size, size_t alignment) {
  if (posix_memalign(p, alignment, size ? size : alignment)) return fail(OUT_OF_MEMORY);
  return put(table, *p, size) ? OK : fail(OUT_OF_MEMORY);
}

API cudaMalloc(void **p, size_t size) {
  cudaError_t error = unsafe("cudaMalloc");
  if (!error) error = allocate(&device_memory, p, size, 512);
  if (!error) memset(*p, 0xA5, size < (1 << 22) ? size : (1 << 22)); /* not zero by luck */
  return error;
}
API cudaFree(void *p) {
  cudaError_t error = unsafe("cudaFree");
  if (error || !p) return error;
  drop(&device_memory, p);
  free(p);
  return OK;
}
API cudaHostAlloc(void **p, size_t size, unsigned flags) {
  cudaError_t error = unsafe("cudaHostAlloc");
  if (error) return error;
  return allocate(&pinned_memory, p, size, 4096);
}
API cudaFreeHost(void *p) {
  drop(&pinned_memory, p);
  free(p);
  return OK;
}
API cudaMemGetInfo(size_t *free_, size_t *total) { *free_ = *total = 8ull << 30; return OK; }
API cudaHostRegister(void *p, size_t size, unsigned flags) { return OK; }
API cudaHostUnregister(void *p) { return OK; }
API cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = holds(&pinned_memory, p)   ? cudaMemoryTypeHost
            : holds(&device_memory, p) ? cudaMemoryTypeDevice
                                       : cudaMemoryTypeUnregistered;
  a->hostPointer = a->devicePointer = (void *)p;
  return OK;
}
API cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyDeviceToHost && !holds(&pinned_memory, to))
    tell("WAIT copy to pageable host memory");
  if (kind == cudaMemcpyHostToDevice && !holds(&pinned_memory, from)) {
    if (capturing && captured == stream) {
      tell("FORBIDDEN in a capture: copy from pageable memory");
      invalid = 1;
      return fail(NOT_PERMITTED);
    }
    tell("PAGEABLE copy to the device");
  }
  memmove(to, from, size);
  return OK;
}
API cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  cudaError_t error = unsafe("cudaMemcpy");
  if (error) return error;
  tell("WAIT cudaMemcpy");
  memmove(to, from, size);
  return OK;
}
API cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t size, cudaStream_t stream) {
  memmove(to, from, size);
  return OK;
}
API cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream) { memset(p, value, size); return OK; }
API cudaMemset(void *p, int value, size_t size) { memset(p, value, size); return OK; }

/* ---- streams and events ---- */
static cudaError_t new_stream(cudaStream_t *stream) {
  static long made = 0x1000;
  *stream = (cudaStream_t)(made += 16);
  return OK;
}
API cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { return new_stream(s); }
API cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { return new_stream(s); }
API cudaStreamCreate(cudaStream_t *s) { return new_stream(s); }
API cudaStreamDestroy(cudaStream_t s) { return OK; }
API cudaStreamGetPriority(cudaStream_t s, int *priority) { *priority = 0; return OK; }
API cudaStreamQuery(cudaStream_t s) { return unsafe("cudaStreamQuery"); }
API cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned flags) { return OK; }
API cudaStreamSynchronize(cudaStream_t s) {
  cudaError_t error = unsafe("cudaStreamSynchronize");
  if (!error) tell(s ? "WAIT cudaStreamSynchronize(side)" : "WAIT cudaStreamSynchronize(default)");
  return error;
}
API cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t call, void *user, unsigned flags) {
  call(s, OK, user);
  return OK;
}
API cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t call, void *user) { call(user); return OK; }
API cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = (cudaEvent_t)malloc(16); return OK; }
API cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
API cudaEventDestroy(cudaEvent_t event) { free(event); return OK; }
API cudaEventRecord(cudaEvent_t event, cudaStream_t s) { return OK; }
API cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t s, unsigned flags) { return OK; }
API cudaEventQuery(cudaEvent_t event) { return unsafe("cudaEventQuery"); }
API cudaEventSynchronize(cudaEvent_t event) {
  cudaError_t error = unsafe("cudaEventSynchronize");
  if (!error) tell("WAIT cudaEventSynchronize");
  return error;
}
API cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) { *ms = 1; return OK; }

/* ---- kernels: none is computed ---- */
static cudaError_t launched(void) {
  tell("KERNEL");
  return OK;
}
API cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { return launched(); }
API cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { return launched(); }
/* What nvcc of CUDA 13 calls for <<<...>>>. */
API __cudaLaunchKernel(void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { return launched(); }
API __cudaLaunchKernel_ptsz(void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { return launched(); }
API cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  a->binaryVersion = a->ptxVersion = 90;
  return OK;
}
API cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int value) { return OK; }
API cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t m, unsigned g) {
  *n = 2;
  return OK;
}

/* ---- the driver's functions that the runtime hands out ---- */
static int nothing(void) { return 0; }
static int primary_context(int device, unsigned *flags, int *active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
API cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned version, unsigned long long flags,
                                     enum cudaDriverEntryPointQueryResult *result) {
  *p = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void *)nothing : (void *)primary_context;
  if (result) *result = cudaDriverEntryPointSuccess;
  return OK;
}
