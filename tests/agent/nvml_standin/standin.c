/* A scripted libnvidia-ml.so.1: the NVML calls that the agent makes, answered from an mmap'd control file.
 *
 * The control file (VTPROF_NVML_STANDIN) holds struct control below; standin.py writes it with the same layout. Activity
 * is piecewise constant over a clock that is either the machine's monotonic one or virtual, and may repeat. Integrals
 * of it are exact, so what is sampled can be compared with what was scripted. */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GPUS 16
#define INSTANCES 8
#define SEGMENTS 256
#define SERIES 5 /* DRAM, tensor, SM, occupancy as ratios; power in mW */
#define POWER 4
#define METRICS 8
#define FIELDS 16
#define CALLS 24
#define NS_PER_S 1000000000.0

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9,
       GPU_IS_LOST = 15 };
enum call { UUID, NAME, MEMORY, UTILIZATION, POWER_USAGE, ENERGY, CLOCK, PCIE, FIELD_VALUES, MIG_MODE, GPM_SUPPORT,
            GPM_SAMPLE, GPM_METRICS, HANDLE, POWER_DEFAULT_LIMIT, POWER_ENFORCED_LIMIT };

struct segment { int64_t until_ns; double level[SERIES]; };
struct script { uint32_t segments; uint32_t pad; int64_t period_ns; struct segment segment[SEGMENTS]; };
struct fault { uint32_t id; int32_t result; };
struct instance { char uuid[96]; uint32_t gi; uint32_t ci; uint32_t present; uint32_t pad; double share; };
struct gpu {
    char uuid[96], name[96];
    int32_t lost;        /* result of every call while not 0 */
    uint32_t generation; /* handles of an older one stay lost */
    uint32_t gpm, busy_percent, memory_busy_percent, sm_clock_mhz, memory_clock_mhz, pcie_kb_per_s[2], mig, instances;
    uint32_t power_default_limit_mw, power_enforced_limit_mw, pad;
    uint64_t memory_total, memory_used, energy_base_mj;
    int64_t energy_from_ns;
    double throttle_power, throttle_thermal; /* ns per ns */
    int32_t result[CALLS];                   /* by enum call, when not 0 */
    struct fault metric[METRICS];            /* GPM metrics that answer with an error of their own */
    double metric_value[METRICS];            /* by metric fault with result 0: a value in place of the true one */
    struct fault field[FIELDS];              /* the same for field values */
    struct instance instance[INSTANCES];
    struct script script;
};
struct control {
    uint32_t magic, gpus;
    int32_t init_result;
    uint32_t virtual_clock;
    uint32_t driver; /* when it changes the library is uninitialized until it is shut down and opened anew */
    uint32_t delay_us; /* every device call takes so long */
    int64_t virtual_ns, origin_ns, gpm_refresh_ns, energy_refresh_ns;
    uint64_t calls[CALLS];
    struct gpu gpu[GPUS];
};

struct handle { uint32_t gpu, generation, instance; };
struct sample { int64_t at_ns; uint32_t gpu; uint32_t valid; double integral[SERIES]; };
typedef struct { uint32_t id; int result; double value; const char *names[3]; } metric_t;
typedef struct { uint32_t version, count; struct sample *first, *second; metric_t metric[]; } metrics_get_t;
typedef struct { uint32_t id, scope; int64_t at_us, latency_us; int type, result; union { double d; uint32_t u; uint64_t ull; } value; } field_t;

static struct control *control;
static uint32_t opened, opened_driver;
static struct handle handles[4096];
static uint32_t next_handle;

static int64_t now_ns(void) {
    struct timespec t;
    if (control->virtual_clock) return __atomic_load_n(&control->virtual_ns, __ATOMIC_ACQUIRE);
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t latched(int64_t at_ns, int64_t refresh_ns) {
    return refresh_ns > 0 ? at_ns - (at_ns - control->origin_ns) % refresh_ns : at_ns;
}

/* Integral of a series from the origin to elapsed_ns, within one pass of the script; ns times level. */
static double within(const struct script *s, int series, int64_t elapsed_ns) {
    double sum = 0;
    int64_t from = 0;
    for (uint32_t i = 0; i < s->segments; i++) {
        int64_t until = i + 1 == s->segments && !s->period_ns ? INT64_MAX : s->segment[i].until_ns;
        int64_t end = until < elapsed_ns ? until : elapsed_ns;
        if (end > from) sum += s->segment[i].level[series] * (double)(end - from);
        if (until >= elapsed_ns) break;
        from = until;
    }
    return sum;
}

static double integral(const struct script *s, int series, int64_t at_ns) {
    int64_t elapsed = at_ns - control->origin_ns;
    if (elapsed <= 0) return 0;
    if (!s->period_ns) return within(s, series, elapsed);
    double passes = (double)(elapsed / s->period_ns);
    return passes * within(s, series, s->period_ns) + within(s, series, elapsed % s->period_ns);
}

static double level(const struct script *s, int series, int64_t at_ns) {
    int64_t elapsed = at_ns - control->origin_ns;
    if (s->period_ns && elapsed > 0) elapsed %= s->period_ns;
    for (uint32_t i = 0; i < s->segments; i++)
        if (elapsed < s->segment[i].until_ns || i + 1 == s->segments) return s->segment[i].level[series];
    return 0;
}

static uint64_t energy_mj(const struct gpu *g) {
    int64_t at = latched(now_ns(), control->energy_refresh_ns);
    double since = integral(&g->script, POWER, at) - integral(&g->script, POWER, g->energy_from_ns);
    return g->energy_base_mj + (since > 0 ? (uint64_t)(since / NS_PER_S) : 0);
}

/* The GPU behind a handle, or why there is none. */
static int find(void *device, enum call call, struct gpu **g, struct handle **h) {
    *h = device;
    __atomic_add_fetch(&control->calls[call], 1, __ATOMIC_RELAXED);
    if (!opened || opened_driver != control->driver) return UNINITIALIZED;
    if (*h < handles || *h >= handles + 4096 || (*h)->gpu >= control->gpus) return INVALID_ARGUMENT;
    if (control->delay_us) usleep(control->delay_us);
    *g = &control->gpu[(*h)->gpu];
    if ((*g)->lost) return (*g)->lost;
    if ((*g)->generation != (*h)->generation) return GPU_IS_LOST;
    return (*g)->result[call];
}

#define FIND(call)                                                                                                     \
    struct gpu *g;                                                                                                     \
    struct handle *h;                                                                                                  \
    int why = find(device, call, &g, &h);                                                                              \
    if (why) return why

static int new_handle(uint32_t gpu, uint32_t instance, void **device) {
    struct handle wanted = {gpu, control->gpu[gpu].generation, instance};
    uint32_t i = 0;
    while (i < next_handle && memcmp(&handles[i], &wanted, sizeof wanted)) i++;
    if (i == 4096) return INVALID_ARGUMENT;
    if (i == next_handle) handles[next_handle++] = wanted;
    *device = &handles[i];
    return SUCCESS;
}

static int put(const char *text, char *out, unsigned size) {
    strncpy(out, text, size - 1);
    out[size - 1] = 0;
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!control) {
        const char *path = getenv("VTPROF_NVML_STANDIN");
        int fd = path ? open(path, O_RDWR) : -1;
        if (fd < 0) return DRIVER_NOT_LOADED;
        control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (control == MAP_FAILED || control->magic != 0x56544d4c) {
            control = NULL;
            return DRIVER_NOT_LOADED;
        }
    }
    if (control->init_result) return control->init_result;
    if (opened && opened_driver != control->driver) return UNINITIALIZED;
    opened_driver = control->driver;
    opened++;
    return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    opened--;
    return SUCCESS;
}
const char *nvmlErrorString(int result) { (void)result; return "an error of the stand-in"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { return put("575.99.99", out, size); }
int nvmlSystemGetNVMLVersion(char *out, unsigned size) { return put("13.575.99", out, size); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!opened || opened_driver != control->driver) return UNINITIALIZED;
    *count = control->gpus;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (!opened || opened_driver != control->driver) return UNINITIALIZED;
    if (index >= control->gpus) return INVALID_ARGUMENT;
    __atomic_add_fetch(&control->calls[HANDLE], 1, __ATOMIC_RELAXED);
    if (control->gpu[index].lost) return control->gpu[index].lost;
    return control->gpu[index].result[HANDLE] ? control->gpu[index].result[HANDLE] : new_handle(index, INSTANCES, device);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (!opened || opened_driver != control->driver) return UNINITIALIZED;
    for (uint32_t i = 0; i < control->gpus; i++)
        if (!strcmp(control->gpu[i].uuid, uuid)) return nvmlDeviceGetHandleByIndex_v2(i, device);
    return NOT_FOUND;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    FIND(UUID);
    return put(h->instance < INSTANCES ? g->instance[h->instance].uuid : g->uuid, out, size);
}
int nvmlDeviceGetName(void *device, char *out, unsigned size) { FIND(NAME); return put(g->name, out, size); }

struct memory { uint64_t total, free, used; };
struct memory_v2 { uint32_t version; uint64_t total, reserved, free, used; };
static double share_of(const struct gpu *g, const struct handle *h) {
    return h->instance < INSTANCES ? g->instance[h->instance].share : 1.0;
}
int nvmlDeviceGetMemoryInfo(void *device, struct memory *m) {
    FIND(MEMORY);
    double share = share_of(g, h);
    m->total = (uint64_t)(g->memory_total * share);
    m->used = (uint64_t)(g->memory_used * share);
    m->free = m->total - m->used;
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *m) {
    if (m->version != 0x02000028) return 25;
    struct memory plain;
    int why = nvmlDeviceGetMemoryInfo(device, &plain);
    if (why) return why;
    m->total = plain.total, m->used = plain.used, m->free = plain.free, m->reserved = 0;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *device, uint32_t rates[2]) {
    FIND(UTILIZATION);
    if (g->mig) return NOT_SUPPORTED;
    rates[0] = g->busy_percent, rates[1] = g->memory_busy_percent;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) {
    FIND(POWER_USAGE);
    if (h->instance < INSTANCES) return NOT_SUPPORTED;
    *mw = (unsigned)level(&g->script, POWER, now_ns());
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *mw) {
    FIND(POWER_DEFAULT_LIMIT);
    if (h->instance < INSTANCES) return NOT_SUPPORTED;
    *mw = g->power_default_limit_mw;
    return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *mw) {
    FIND(POWER_ENFORCED_LIMIT);
    if (h->instance < INSTANCES) return NOT_SUPPORTED;
    *mw = g->power_enforced_limit_mw;
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, uint64_t *mj) {
    FIND(ENERGY);
    if (h->instance < INSTANCES) return NOT_SUPPORTED;
    *mj = energy_mj(g);
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) {
    FIND(CLOCK);
    *mhz = type == 2 ? g->memory_clock_mhz : g->sm_clock_mhz;
    return SUCCESS;
}
int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned *mhz) {
    FIND(CLOCK);
    *mhz = type == 2 ? 2619 : 1980;
    return SUCCESS;
}
/* Power cap and thermal slowdown, each at the beginning of every 37 ms for the share of time that its counter advances. */
int nvmlDeviceGetCurrentClocksEventReasons(void *device, uint64_t *reasons) {
    FIND(CLOCK);
    double phase = (double)((now_ns() - control->origin_ns) % 37000000) / 37e6;
    *reasons = (phase < g->throttle_power ? 0x4 : 0) | (phase < g->throttle_thermal ? 0x20 : 0);
    return SUCCESS;
}
int nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned *kb_per_s) {
    FIND(PCIE);
    *kb_per_s = g->pcie_kb_per_s[counter == 1];
    return SUCCESS;
}
int nvmlDeviceGetFieldValues(void *device, int count, field_t *fields) {
    FIND(FIELD_VALUES);
    double elapsed = (double)(now_ns() - control->origin_ns);
    for (int i = 0; i < count; i++) {
        field_t *f = &fields[i];
        f->result = SUCCESS, f->type = 3;
        switch (f->id) {
        case 74: f->value.ull = (uint64_t)(g->throttle_power * elapsed); break;
        case 75: case 269: f->value.ull = (uint64_t)(g->throttle_thermal * elapsed); break;
        case 270: case 271: f->value.ull = 0; break;
        case 83: f->value.ull = energy_mj(g); break;
        case 185: case 186: f->type = 1, f->value.u = (uint32_t)level(&g->script, POWER, now_ns()); break;
        default: f->result = NOT_SUPPORTED;
        }
        for (int k = 0; k < FIELDS; k++)
            if (g->field[k].id == f->id && g->field[k].id) f->result = g->field[k].result;
    }
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    FIND(MIG_MODE);
    *current = *pending = g->mig;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    FIND(MIG_MODE);
    *count = g->mig ? INSTANCES : 0;
    return SUCCESS;
}
/* As the driver does: only instances with a compute instance are MIG devices. */
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **mig) {
    FIND(HANDLE);
    if (index >= g->instances || !g->instance[index].present) return NOT_FOUND;
    return new_handle(h->gpu, index, mig);
}
int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) {
    FIND(HANDLE);
    if (h->instance >= INSTANCES) return INVALID_ARGUMENT;
    *id = g->instance[h->instance].gi;
    return SUCCESS;
}
int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) {
    FIND(HANDLE);
    if (h->instance >= INSTANCES) return INVALID_ARGUMENT;
    *id = g->instance[h->instance].ci;
    return SUCCESS;
}

int nvmlGpmQueryDeviceSupport(void *device, uint32_t support[2]) {
    FIND(GPM_SUPPORT);
    support[1] = g->gpm;
    return SUCCESS;
}
int nvmlGpmSampleAlloc(struct sample **sample) {
    *sample = calloc(1, sizeof **sample);
    return SUCCESS;
}
int nvmlGpmSampleFree(struct sample *sample) { free(sample); return SUCCESS; }
static int take(struct gpu *g, uint32_t number, double share, struct sample *sample) {
    sample->at_ns = latched(now_ns(), control->gpm_refresh_ns);
    sample->gpu = number;
    sample->valid = 1;
    for (int i = 0; i < SERIES; i++) sample->integral[i] = share * integral(&g->script, i, sample->at_ns);
    return SUCCESS;
}
int nvmlGpmSampleGet(void *device, struct sample *sample) {
    FIND(GPM_SAMPLE);
    if (!g->gpm || g->mig) return NOT_SUPPORTED;
    return take(g, h->gpu, 1.0, sample);
}
int nvmlGpmMigSampleGet(void *device, unsigned gi, struct sample *sample) {
    FIND(GPM_SAMPLE);
    if (!g->gpm || !g->mig) return NOT_SUPPORTED;
    for (uint32_t i = 0; i < g->instances; i++)
        if (g->instance[i].present && g->instance[i].gi == gi) return take(g, h->gpu, g->instance[i].share, sample);
    return NOT_FOUND;
}
int nvmlGpmMetricsGet(metrics_get_t *get) {
    static const int series_of[11] = {-1, -1, 2, 3, -1, 1, -1, -1, -1, -1, 0};
    if (get->version != 1) return 25;
    __atomic_add_fetch(&control->calls[GPM_METRICS], 1, __ATOMIC_RELAXED);
    struct sample *a = get->first, *b = get->second;
    if (!a || !b || !a->valid || !b->valid || a->gpu != b->gpu) return INVALID_ARGUMENT;
    struct gpu *g = &control->gpu[a->gpu];
    if (g->result[GPM_METRICS]) return g->result[GPM_METRICS];
    double span = (double)(b->at_ns - a->at_ns);
    for (uint32_t i = 0; i < get->count; i++) {
        metric_t *m = &get->metric[i];
        int series = m->id < 11 ? series_of[m->id] : -1;
        m->result = SUCCESS;
        if (m->id == 20 || m->id == 21) m->value = g->pcie_kb_per_s[m->id == 21] / 1048.576;
        else if (series < 0) m->result = NOT_SUPPORTED;
        else m->value = span > 0 ? 100.0 * (b->integral[series] - a->integral[series]) / span : NAN;
        for (int k = 0; k < METRICS; k++)
            if (g->metric[k].id == m->id && m->id) {
                m->result = g->metric[k].result;
                if (!m->result) m->value = g->metric_value[k];
            }
    }
    return SUCCESS;
}
