# A thin front for CMake presets: everything here can be done with `cmake --preset release` and ctest.
#
#   make demo     installs what is missing, builds, serves and fits a real network, prints a table, stops the server
#   make test     installs what is missing, builds, runs every test
#   make bench    what exact predictives and curvature products cost, beside the usual ways (minutes; wants a quiet machine)
#   make bench-fit  what debiasing buys: fits of every kind compared on the demo network (minutes; tables in Markdown)
#   make paper    the paper's experiments on the demo network, as CSV files, figures and a report in run/paper (hours; tests/bench/paper)
#   make paper-quick  a small version of them (four minutes on two cores)
#   make bench-serving  what a call costs beside bare gRPC, with a model that computes nothing (two minutes)
#   make fuzz     every reader of untrusted bytes with libFuzzer, TIME=60 seconds each; prints executions, crashes, peak memory
#   make coverage  lines of server/, client/ and formats/ that the tests run, as a table and as HTML (a build of its own; an hour on two cores)
#   make stress   kills a real server CYCLES=200 times while it writes, fills its disk, fails its file calls one by one, sets its clock, spoils
#                 its network, holds on to it; nothing acknowledged may be lost, no answer wrong (more than an hour)
#   make soak     keeps a real server under mixed load for MINUTES=30; fails if memory, descriptors or threads grow
#   make check-numerics  fits and predictions of SEEDS=40 random networks against dense references in double precision (ten minutes)
#   make golden RELEASE=0.2.0  keeps artifacts and answers of this version for the test that later ones predict the same (tests/data/golden)
#   make valgrind-client  the tests of the C++ client and the command line under valgrind (slow: thirty times the time of the tests)
#   make test-replicas  two servers behind HAProxy, one of them killed, stopped, unplugged, updated under load (root; three to five minutes)
#   make test-image  builds the container images without a container engine and tries them (root; an hour on two cores)
#   make test-monitoring  every query of dashboard, alerts and autoscaler, asked of a real Prometheus (three minutes)
#   make validate-manifests  Kubernetes, KServe and Compose files against published schemas and each other (needs kubectl, npm)
#   make python   the Python client: client/python can be imported, and a wheel stands in build/python
#   make build    server (build/release/server/app/laplaced) and client (build/release/client/cli/laplace)
#   make format   rewrites sources with clang-format; make check-format only looks

PRESET ?= release
BUILD := build/$(PRESET)
PYTHON_BUILD := build/python
JOBS ?= $(shell nproc)

# Debian packages, by name. Everything that is built or run comes from here.
BUILD_PACKAGES := g++ make cmake ninja-build ccache mold pkg-config \
  libtorch-dev libgloo-dev libgflags-dev libgoogle-glog-dev libopenblas0-openmp libopenblas-openmp-dev \
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev \
  nlohmann-json3-dev libcli11-dev libspdlog-dev prometheus-cpp-dev libcpp-httplib-dev libzip-dev zlib1g-dev libssl-dev libjemalloc-dev
TEST_PACKAGES := libgtest-dev libgmock-dev libbenchmark-dev clang-format openssl python3-numpy python3-grpcio python3-protobuf \
  python3-yaml iproute2 curl
# Of the Python client: its wheel, and its tests with exports, pictures and a browser that shows them.
PYTHON_PACKAGES := python3-setuptools python3-wheel python3-build
PYTHON_TEST_PACKAGES := python3-pytest mypy python3-torch python3-matplotlib python3-scipy python3-pil chromium
PAPER_PACKAGES := python3-numpy python3-grpcio python3-protobuf python3-torch python3-matplotlib python3-scipy python3-pil
REPLICAS_PACKAGES := haproxy iproute2
MONITORING_PACKAGES := prometheus python3-yaml curl
DEMO_PACKAGES := dataset-fashion-mnist python3-sklearn
NUMERICS_PACKAGES := python3-numpy python3-grpcio python3-protobuf python3-torch
FUZZ_PACKAGES := clang libclang-rt-dev
COVERAGE_PACKAGES := gcovr
IMAGE_TEST_PACKAGES := buildah debootstrap jq curl iproute2 procps python3 dataset-fashion-mnist

.PHONY: all build python test test-replicas bench bench-fit bench-serving demo fuzz stress coverage format check-format clean deps-build deps-demo deps-python deps-replicas deps-test test-image test-monitoring validate-manifests paper paper-quick soak check-numerics golden valgrind-client

all: build

# $(call install,packages): installs those that are missing, and nothing if none is.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "Missing Debian packages; install them as root: apt-get install --no-install-recommends" $$missing >&2; exit 1; fi; \
	  echo "installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

# Another BLAS that is installed too may stand in front of OpenBLAS's OpenMP build; LibTorch takes whatever stands in front.
define choose_blas
	@for lib in libblas.so.3 liblapack.so.3 libopenblas.so.0; do \
	  triple=$$(gcc -print-multiarch); name=$$lib-$$triple; wanted=/usr/lib/$$triple/openblas-openmp/$$lib; \
	  [ "$$(readlink -f /etc/alternatives/$$name)" = "$$(readlink -f $$wanted)" ] && continue; \
	  if [ "$$(id -u)" != 0 ]; then echo "Choose the OpenMP build of OpenBLAS as root: update-alternatives --set $$name $$wanted" >&2; exit 1; fi; \
	  echo "choosing $$wanted for $$name"; update-alternatives --set $$name $$wanted >/dev/null || exit 1; \
	done
endef

deps-build:
	$(call install,$(BUILD_PACKAGES) $(TEST_PACKAGES))
	$(choose_blas)

deps-python: deps-build
	$(call install,$(PYTHON_PACKAGES))

deps-test: deps-demo deps-python
	$(call install,$(PYTHON_TEST_PACKAGES))
	$(choose_blas)

deps-replicas: deps-demo
	$(call install,$(REPLICAS_PACKAGES))

deps-demo: deps-build
	$(call install,$(DEMO_PACKAGES))
	$(choose_blas)

$(BUILD)/build.ninja: | deps-build
	cmake --preset $(PRESET)

build: deps-build $(BUILD)/build.ninja
	cmake --build $(BUILD) --parallel $(JOBS)

python: deps-python
	cd client/python && /usr/bin/python3 setup.py descriptors && /usr/bin/python3 -m build --wheel --no-isolation --outdir ../../$(PYTHON_BUILD) . >/dev/null
	@ls $(PYTHON_BUILD)/*.whl

test: deps-test build
	ctest --preset $(PRESET)

# TARGETS=npy,npz fuzzes these alone.
TIME ?= 60
fuzz: deps-build
	$(call install,$(FUZZ_PACKAGES))
	cmake --preset fuzz >/dev/null
	cmake --build build/fuzz --parallel $(JOBS) --target fuzzers
	tests/fuzz/run.py build/fuzz --time $(TIME) --jobs $(JOBS) $(if $(TARGETS),--targets $(TARGETS))

# Fails below 85 % of lines. Files that C++ tests do not reach at all count as well.
coverage: deps-test
	$(call install,$(COVERAGE_PACKAGES))
	cmake --preset coverage >/dev/null
	cmake --build build/coverage --parallel $(JOBS)
	find build/coverage -name '*.gcda' -delete
	OMP_WAIT_POLICY=PASSIVE ctest --preset coverage
	tests/coverage.sh build/coverage

# SEED=N repeats the moments of a run that failed.
CYCLES ?= 200
stress: deps-build build
	tests/stress/run.sh $(BUILD)/server/app/laplaced crash_test.py --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))
	tests/stress/run.sh $(BUILD)/server/app/laplaced disk_test.py
	tests/stress/run.sh $(BUILD)/server/app/laplaced chaos_test.py $(if $(SEED),--seed $(SEED))
	tests/stress/run.sh $(BUILD)/server/app/laplaced abuse_test.py --long
	tests/stress/run.sh $(BUILD)/server/app/laplaced clock_test.py $(BUILD)/tests/stress/libclock_layer.so
	tests/stress/run.sh $(BUILD)/server/app/laplaced fault_test.py $(BUILD)/tests/stress/libfault_layer.so $(if $(SEED),--seed $(SEED))
	tests/stress/run.sh $(BUILD)/server/offline/laplace-fit fault_offline_test.py $(BUILD)/tests/stress/libfault_layer.so --sample 40 $(if $(SEED),--seed $(SEED))

# SAMPLES=FILE keeps the samples as CSV.
MINUTES ?= 30
soak: deps-build build
	tests/stress/run.sh $(BUILD)/server/app/laplaced soak.py --minutes $(MINUTES) $(if $(SAMPLES),--csv $(SAMPLES)) $(if $(SEED),--seed $(SEED))

# SEEDS=N networks; FIRST=100 begins there, and with SEEDS=1 repeats one.
SEEDS ?= 40
FIRST ?= 1
check-numerics: deps-build build
	$(call install,$(NUMERICS_PACKAGES))
	tests/numerics/run.sh $(BUILD)/server/app/laplaced numerics_test.py --seeds $(SEEDS) --first $(FIRST)
	tests/numerics/run.sh $(BUILD)/server/app/laplaced concurrency_test.py
	tests/numerics/run.sh $(BUILD)/server/app/laplaced golden_test.py

# Once, when a release is made. A folder that exists is never written again.
golden: deps-build build
	$(call install,$(NUMERICS_PACKAGES))
	@test -n "$(RELEASE)" || { echo "Say which release this is: make golden RELEASE=0.2.0" >&2; exit 1; }
	tests/numerics/run.sh $(BUILD)/server/app/laplaced golden_test.py --write $(RELEASE)

# The tests of the C++ client and the command line; needs no server.
valgrind-client: deps-build build
	$(call install,valgrind)
	tests/client/valgrind.sh $(BUILD)/tests/client_test

# HAPROXY=FILE takes another HAProxy.
test-replicas: deps-replicas build
	cd client/python && /usr/bin/python3 setup.py descriptors
	PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=client/python /usr/bin/python3 tests/replicas/replicas_test.py $(BUILD)

test-image:
	$(call install,$(IMAGE_TEST_PACKAGES))
	docker/test-image.sh --jobs $(JOBS)

test-monitoring: deps-demo build
	$(call install,$(MONITORING_PACKAGES))
	tests/docker/monitoring_test.sh $(BUILD)

validate-manifests: build
	LAPLACED_BINARY=$(BUILD)/server/app/laplaced docker/kubernetes/validate.sh build/manifests

bench: build
	$(BUILD)/tests/bench/bench_predictive
	$(BUILD)/tests/bench/bench_curvature

# Other networks and sizes: bench_fit --help.
bench-fit: deps-demo build
	$(BUILD)/tests/bench/bench_fit --network fashion_cnn

# CIFAR=FOLDER RESNET20=FOLDER add ResNet-20 and ALL-CNN-C: tests/bench/paper/README.md.
paper paper-quick: deps-demo build
	$(call install,$(PAPER_PACKAGES))
	BUILD=$(abspath $(BUILD)) tests/bench/paper/run.sh $(if $(filter paper-quick,$@),quick,all)

bench-serving: build
	$(BUILD)/tests/bench/bench_serving

demo: deps-demo build
	client/demo/demo.sh $(BUILD)

SOURCES = $(shell git ls-files '*.cc' '*.h')

format:
	@clang-format -i $(SOURCES)

check-format:
	@clang-format --dry-run -Werror $(SOURCES)

clean:
	rm -rf build run
