// cuDNN's entry points, loaded at run time: a program that was built with cuDNN's headers starts
// where the library is missing, and then has no fused attention.
#pragma once

#include <cudnn_graph.h>

#include <string>

#include "cluster/base/status.h"

namespace trireme::cudnn {

struct Api {
  decltype(&cudnnGetVersion) GetVersion;
  decltype(&cudnnGetErrorString) GetErrorString;
  decltype(&cudnnGetLastErrorString) GetLastErrorString;
  decltype(&cudnnCreate) Create;
  decltype(&cudnnSetStream) SetStream;
  decltype(&cudnnBackendCreateDescriptor) CreateDescriptor;
  decltype(&cudnnBackendDestroyDescriptor) DestroyDescriptor;
  decltype(&cudnnBackendFinalize) Finalize;
  decltype(&cudnnBackendSetAttribute) SetAttribute;
  decltype(&cudnnBackendGetAttribute) GetAttribute;
  decltype(&cudnnBackendExecute) Execute;

  int version = 0;   // 91900 is 9.19.0
  std::string path;  // what was loaded
};

// The library at TRIREME_CUDNN_LIBRARY, or libcudnn.so.9 where the loader finds it. Loaded once and
// never unloaded. kUnavailable with one line when it is missing, lacks a function or is not 9.11 or
// later of cuDNN 9.
Result<const Api*> Load();

// OK, or what the library says of the call that failed on this thread: kNotFound where it does not
// support what was asked, kInternal otherwise.
Status StatusOf(const Api& api, cudnnStatus_t status, const char* call);

}  // namespace trireme::cudnn
