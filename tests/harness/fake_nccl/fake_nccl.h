// An NCCL for tests: NCCL's entry points over the threads of one process, as a library that is
// loaded at run time. It keeps to what NCCL promises of non-blocking communicators, in its
// strictest reading: every operation is in progress until all who take part have called it, and a
// call on a communicator that is in progress is a usage error. Memory is the process' own. With
// FakeNcclEnqueue it is as on a GPU instead: a call puts the operation on its stream, where it
// begins when it is the first, and holds up what comes behind until all who take part have begun.
#pragma once

extern "C" {

// As if freshly loaded, but for communicators that are alive.
void FakeNcclReset();
// The named call ("ncclSend") fails with `result` from its `after`-th call on (0: the next), once.
void FakeNcclFailCall(const char* call, int result, int after);
// Every communicator tells this error when it is asked (ncclCommGetAsyncError); 0: none.
void FakeNcclAsyncError(int result);
// ncclCommAbort does not return until this is called with false.
void FakeNcclHangInAbort(bool hang);

// Where memory is a device's: `settle` waits for a stream; between `begin` and `end`, on one
// thread, the device's memory can be touched. Null: memory is the process' own.
void FakeNcclDevice(void (*settle)(void* stream), void (*begin)(), void (*end)());

// `enqueue` puts work on a stream that is over when over(work) says so; that is asked, again and
// again, from when the work is the stream's first, and is answered with true once.
using FakeNcclEnqueueFunction = void (*)(void* stream, bool (*over)(void* work), void* work);
void FakeNcclEnqueue(FakeNcclEnqueueFunction enqueue);

int FakeNcclAlive();   // communicators begun and not yet ended
int FakeNcclAborts();  // ended by ncclCommAbort
// How often the named call was made.
int FakeNcclCalls(const char* call);
}
