// TrainingWorker: one worker of a run, in a process or a thread of its own. Joins the coordinator,
// takes its place in the mesh, and trains until it is told to stop.
#pragma once

#include <memory>
#include <string>

#include "cluster/base/status.h"
#include "cluster/comm/communicator.h"
#include "cluster/rpc/endpoint.h"

namespace trireme {

struct TrainingWorkerOptions {
  Endpoint coordinator;
  // The transport's factory of this rank; the rank is the worker's name in the run. Outlives the
  // call. Rank 0 of a world is the coordinator and never a worker.
  CommunicatorFactory* transport = nullptr;
  // Workers that share this host, for the cores that each computes with.
  int workers_on_host = 1;
  // This worker's number among those of its host: which GPU it takes.
  int worker_on_host = 0;
  bool on_gpu = false;
  // Threads to compute with on a CPU; 0: this worker's share of the cores.
  int threads = 0;
  // The precision of the products that `mfu` is a share of.
  bool bf16 = false;
  // Signals that came to this process; may be null.
  class StopRequests* stop = nullptr;
};

// Trains. Ok: all steps are done. kStopped: stopped on request with a checkpoint. kUnavailable: the
// run was ended because somebody was lost. Others: what went wrong here, already told to the
// coordinator.
Status RunTrainingWorker(const TrainingWorkerOptions& options);

// The best of a few single-precision (or bf16) matrix products of 1024^3 with these threads, in
// FLOP/s: what `mfu` is a share of.
double MeasureProductPeak(class Stream& stream, bool bf16);

}  // namespace trireme
