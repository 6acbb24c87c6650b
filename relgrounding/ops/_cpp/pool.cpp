// Where the threads come from.
#include "parallel.h"

StartThreads start_threads = nullptr;

extern "C" void set_pool(StartThreads start) { start_threads = start; }
