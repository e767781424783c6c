/* A driver that only tells a version: what the CUDA runtime asks first. */
#include <stdlib.h>
#include <string.h>
int cuDriverGetVersion(int *version) { const char *told = getenv("STUB_CUDA_DRIVER"); *version = told ? atoi(told) : 12060; return 0; }
int cuInit(unsigned flags) { (void)flags; return 100; /* CUDA_ERROR_NO_DEVICE */ }
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  (void)version; (void)flags; *found = 0;
  if (!strcmp(name, "cuDriverGetVersion")) *found = (void *)cuDriverGetVersion;
  if (!strcmp(name, "cuInit")) *found = (void *)cuInit;
  if (!strcmp(name, "cuGetProcAddress")) *found = (void *)cuGetProcAddress;
  return *found ? 0 : 500;
}
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  int error = cuGetProcAddress(name, found, version, flags);
  if (status) *status = error ? 1 : 0;
  return error;
}
