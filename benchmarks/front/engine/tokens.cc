// A stand-in for TensorRT-LLM's C++ Triton backend: in-flight batching without a model, one response per token.
//
// Every token_period_us (0: as fast as it can) each running request gets the next of its prompt's tokens. Cancellation
// by the client or by a request with the same id and stop=true ends a request, as in the real backend.
//
// Declarations instead of headers: the CPU wheel of the server brings none.
// Source: triton-inference-server/core, include/triton/core/tritonbackend.h and tritonserver.h (values of the enums).
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

extern "C" {
struct TRITONSERVER_Error;
struct TRITONSERVER_Message;
struct TRITONBACKEND_Model;
struct TRITONBACKEND_ModelInstance;
struct TRITONBACKEND_Request;
struct TRITONBACKEND_Response;
struct TRITONBACKEND_ResponseFactory;
struct TRITONBACKEND_Input;
struct TRITONBACKEND_Output;
TRITONSERVER_Error* TRITONSERVER_ErrorNew(int code, const char* msg);
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error*);
TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message*, const char**, size_t*);
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message*);
TRITONSERVER_Error* TRITONBACKEND_ModelConfig(TRITONBACKEND_Model*, uint32_t, TRITONSERVER_Message**);
TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model*, void*);
TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model*, void**);
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance*, TRITONBACKEND_Model**);
TRITONSERVER_Error* TRITONBACKEND_RequestInput(TRITONBACKEND_Request*, const char*, TRITONBACKEND_Input**);
TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request*, const char**);
TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request*, uint32_t*);
TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request*, uint32_t, const char**);
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request*, uint32_t);
TRITONSERVER_Error* TRITONBACKEND_InputBuffer(TRITONBACKEND_Input*, uint32_t, const void**, uint64_t*, int*, int64_t*);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory**, TRITONBACKEND_Request*);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory*);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory*, uint32_t);
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory*, bool*);
TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response**, TRITONBACKEND_ResponseFactory*);
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response*, TRITONBACKEND_Output**, const char*, int,
                                                 const int64_t*, uint32_t);
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output*, void**, uint64_t, int*, int64_t*);
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response*, uint32_t, TRITONSERVER_Error*);
}
namespace {
using Clock = std::chrono::steady_clock;
constexpr uint32_t kFinal = 1, kReleaseAll = 1;
constexpr int kInt32 = 8, kInt64 = 9, kFp32 = 11;
int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

struct Job {
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  std::vector<int32_t> prompt;
  int32_t left = 0;
  size_t sent = 0;
  bool streaming = false;
  int64_t end_id = -1;
  std::string id;
  std::set<std::string> outputs;
  std::vector<int32_t> all;
  int64_t arrival = 0, scheduled = 0, first = 0, last = 0;
};

void Output(TRITONBACKEND_Response* r, const Job& job, const char* name, int type, std::vector<int64_t> shape,
            const void* data, size_t size) {
  if (!job.outputs.empty() && !job.outputs.count(name)) return;
  TRITONBACKEND_Output* out;
  void* buffer;
  int memory = 0;
  int64_t id = 0;
  if (TRITONBACKEND_ResponseOutput(r, &out, name, type, shape.data(), shape.size())) return;
  if (TRITONBACKEND_OutputBuffer(out, &buffer, size, &memory, &id)) return;
  memcpy(buffer, data, size);
}

struct Model {
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  std::deque<Job*> waiting;
  std::list<Job*> running;
  std::set<std::string> stopped;
  int64_t period_us = 0, slots = 8, batched = 0;
  std::thread thread;

  void Send(Job* job, const int32_t* tokens, size_t n, bool final) {
    TRITONBACKEND_Response* r;
    if (TRITONBACKEND_ResponseNewFromFactory(&r, job->factory)) return;
    std::vector<int64_t> shape = {1, (int64_t)n}, one = {1};
    if (batched) {
      shape.insert(shape.begin(), 1);
      one.insert(one.begin(), 1);
    }
    Output(r, *job, "output_ids", kInt32, shape, tokens, 4 * n);
    int32_t length = (int32_t)n;
    Output(r, *job, "sequence_length", kInt32, one, &length, 4);
    if (final) {
      Output(r, *job, "arrival_time_ns", kInt64, one, &job->arrival, 8);
      Output(r, *job, "first_scheduled_time_ns", kInt64, one, &job->scheduled, 8);
      Output(r, *job, "first_token_time_ns", kInt64, one, &job->first, 8);
      Output(r, *job, "last_token_time_ns", kInt64, one, &job->last, 8);
    }
    TRITONBACKEND_ResponseSend(r, final ? kFinal : 0, nullptr);
  }
  bool Step(Job* job) {  // true when done
    bool cancelled = false;
    TRITONBACKEND_ResponseFactoryIsCancelled(job->factory, &cancelled);
    if (!cancelled) {
      std::lock_guard<std::mutex> g(mutex);
      cancelled = !job->id.empty() && stopped.erase(job->id);
    }
    if (cancelled) {
      TRITONBACKEND_ResponseFactorySendFlags(job->factory, kFinal);
      return true;
    }
    int32_t token = job->prompt[job->sent % job->prompt.size()];
    job->sent++;
    job->left--;
    job->last = Now();
    if (!job->first) job->first = job->last;
    bool done = job->left <= 0 || token == job->end_id;
    if (job->streaming)
      Send(job, &token, 1, done);
    else {
      job->all.push_back(token);
      if (done) Send(job, job->all.data(), job->all.size(), true);
    }
    return done;
  }
  void Run() {
    auto next = Clock::now();
    while (true) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        if (running.empty() && waiting.empty()) {
          wake.wait(lock, [&] { return stop || !waiting.empty(); });
          next = Clock::now();
        }
        if (stop) return;
        while (!waiting.empty() && (int64_t)running.size() < slots) {
          running.push_back(waiting.front());
          waiting.front()->scheduled = Now();
          waiting.pop_front();
        }
      }
      for (auto it = running.begin(); it != running.end();) {
        if (Step(*it)) {
          TRITONBACKEND_ResponseFactoryDelete((*it)->factory);
          delete *it;
          it = running.erase(it);
        } else
          ++it;
      }
      next += std::chrono::microseconds(period_us);
      if (period_us) std::this_thread::sleep_until(next);
    }
  }
};
template <class T>
std::vector<T> Read(TRITONBACKEND_Request* r, const char* name) {
  TRITONBACKEND_Input* in;
  const void* b;
  uint64_t size;
  int memory = 0;
  int64_t id = 0;
  if (auto* e = TRITONBACKEND_RequestInput(r, name, &in)) {
    TRITONSERVER_ErrorDelete(e);
    return {};
  }
  if (TRITONBACKEND_InputBuffer(in, 0, &b, &size, &memory, &id)) return {};
  return std::vector<T>((const T*)b, (const T*)b + size / sizeof(T));
}
int64_t Parameter(const std::string& json, const std::string& key, int64_t fallback) {
  auto at = json.find("\"" + key + "\":{\"string_value\":\"");
  return at == std::string::npos ? fallback : atoll(json.c_str() + at + key.size() + 20);
}
}  // namespace

extern "C" {
TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  auto* m = new Model;
  TRITONSERVER_Message* message;
  const char* base;
  size_t size;
  if (auto* e = TRITONBACKEND_ModelConfig(model, 1, &message)) return e;
  TRITONSERVER_MessageSerializeToJson(message, &base, &size);
  std::string json(base, size);
  TRITONSERVER_MessageDelete(message);
  m->period_us = Parameter(json, "token_period_us", 0);
  m->slots = Parameter(json, "slots", 8);
  m->batched = json.find("\"max_batch_size\":0") == std::string::npos;
  m->thread = std::thread([m] { m->Run(); });
  return TRITONBACKEND_ModelSetState(model, m);
}
TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  void* s;
  TRITONBACKEND_ModelState(model, &s);
  auto* m = (Model*)s;
  {
    std::lock_guard<std::mutex> g(m->mutex);
    m->stop = true;
  }
  m->wake.notify_all();
  m->thread.join();
  delete m;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, const uint32_t count) {
  TRITONBACKEND_Model* model;
  void* s;
  TRITONBACKEND_ModelInstanceModel(instance, &model);
  TRITONBACKEND_ModelState(model, &s);
  auto* m = (Model*)s;
  for (uint32_t i = 0; i < count; i++) {
    auto* job = new Job;
    auto* r = requests[i];
    const char* id = "";
    uint32_t n = 0;
    TRITONBACKEND_ResponseFactoryNew(&job->factory, r);
    TRITONBACKEND_RequestId(r, &id);
    job->id = id;
    job->prompt = Read<int32_t>(r, "input_ids");
    job->arrival = Now();
    auto len = Read<int32_t>(r, "request_output_len");
    job->left = len.empty() ? 16 : len[0];
    auto streaming = Read<uint8_t>(r, "streaming");
    job->streaming = !streaming.empty() && streaming[0];
    auto end = Read<int32_t>(r, "end_id");
    if (!end.empty()) job->end_id = end[0];
    auto stop = Read<uint8_t>(r, "stop");
    TRITONBACKEND_RequestOutputCount(r, &n);
    for (uint32_t k = 0; k < n; k++) {
      const char* name;
      TRITONBACKEND_RequestOutputName(r, k, &name);
      job->outputs.insert(name);
    }
    if (!stop.empty() && stop[0]) {
      {
        std::lock_guard<std::mutex> g(m->mutex);
        m->stopped.insert(job->id);
      }
      TRITONBACKEND_ResponseFactorySendFlags(job->factory, kFinal);
      TRITONBACKEND_ResponseFactoryDelete(job->factory);
      delete job;
    } else {
      {
        std::lock_guard<std::mutex> g(m->mutex);
        m->waiting.push_back(job);
      }
      m->wake.notify_one();
    }
    TRITONBACKEND_RequestRelease(r, kReleaseAll);
  }
  return nullptr;
}
}
