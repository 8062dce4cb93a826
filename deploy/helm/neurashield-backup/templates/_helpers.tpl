{{- define "backup.labels" -}}
app.kubernetes.io/name: neurashield-backup
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "backup.selector" -}}
app.kubernetes.io/name: neurashield-backup
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "backup.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- /* What every container of ours may do: nothing but read its image and write its volumes. */}}
{{- define "backup.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* Who a pod is: `user`, `group`, `groups`, and `fsGroup` where the kubelet may give the volumes to a group. What is
       not set is the cluster's to choose, as OpenShift does. */}}
{{- define "backup.podSecurity" -}}
runAsNonRoot: true
{{- with .user }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .group | default .user }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .groups }}
supplementalGroups: {{ toJson . }}
{{- end }}
{{- with .fsGroup }}
fsGroup: {{ int64 . }}
{{- /* A volume with millions of files is not walked at each start. */}}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "backup.controllerSecurity" -}}
{{- include "backup.podSecurity" (dict "user" .Values.controller.user "fsGroup" .Values.controller.user) }}
{{- end }}

{{- /* The group that the kubelet may give an agent's volumes to; nothing where a claim of somebody else's would be given
       away: it then makes every file there readable and writable for that group, keys and all. */}}
{{- define "backup.agentGroup" -}}
{{- $given := false }}
{{- range .claims }}{{ if not .readOnly }}{{ $given = true }}{{ end }}{{ end }}
{{- if .fsGroup }}{{ int64 .fsGroup }}{{ else if not $given }}{{ with .group | default .user | default (hasKey . "user" | ternary nil 10001) }}{{ int64 . }}{{ end }}{{ end }}
{{- end }}

{{- /* Not empty where an agent asks the API server for anything. */}}
{{- define "backup.asksCluster" -}}
{{- if or .rights .workloads }}true{{ end }}
{{- end }}

{{- /* Every agent that may join by its service account: those of the chart and those in pods of yours. */}}
{{- define "backup.joins" -}}
{{- $release := .Release.Namespace }}
{{- $all := list }}
{{- range .Values.agents }}
{{- $node := eq (.kind | default "Deployment") "DaemonSet" }}
{{- /* By itself, what it is configured to serve and no more. */}}
{{- $sources := list }}
{{- range .config.sources }}{{ $sources = append $sources (printf "%s/%s%s" .component .name (ternary "-*" "" $node)) }}{{ end }}
{{- $rule := dict "namespace" (.namespace | default $release) "service_account" (printf "backup-agent-%s" .name) "name" (ternary (printf "%s-*" .name) .name $node) "sources" (.sources | default $sources) }}
{{- with .most }}{{ $rule = set $rule "most" (int .) }}{{ end }}
{{- $all = append $all $rule }}
{{- end }}
{{- range .Values.joins }}
{{- $rule := dict "namespace" .namespace "service_account" .serviceAccount "name" .name "sources" .sources }}
{{- with .most }}{{ $rule = set $rule "most" (int .) }}{{ end }}
{{- $all = append $all $rule }}
{{- end }}
{{- /* Two agents of one name would take each other's sources. */}}
{{- $names := list }}
{{- range $all }}
{{- if has .name $names }}{{ fail (printf "two agents are called %s: give each of `agents` and `joins` a name of its own" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- dict "joins" $all | toJson }}
{{- end }}

{{- /* The namespaces of agents. In each lies a config map with the certificate of the controller's authority. */}}
{{- define "backup.namespaces" -}}
{{- $all := list .Release.Namespace }}
{{- range (include "backup.joins" . | fromJson).joins }}{{ $all = append $all .namespace }}{{ end }}
{{- dict "namespaces" ($all | uniq | sortAlpha) | toJson }}
{{- end }}

{{- /* The restore pods, as the controller's configuration has them: what a sidecar holds in folders. */}}
{{- define "backup.restorePods" -}}
{{- $all := list }}
{{- range .Values.joins }}
{{- $join := . }}
{{- with .restore }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$" $join.name) }}{{ fail (printf "joins: %s has a restore pod, so its name is one of at most 40 letters a-z, 0-9 and -" $join.name) }}{{ end }}
{{- $sources := list }}
{{- range .config.sources }}{{ if .path }}{{ $sources = append $sources (printf "%s/%s" .component .name) }}{{ end }}{{ end }}
{{- if not $sources }}{{ fail (printf "joins: the restore pod of %s has no source with a path: only folders are restored there" $join.name) }}{{ end }}
{{- $pod := dict "namespace" $join.namespace "deployment" (printf "backup-restore-%s" $join.name) "sources" $sources "workloads" .workloads }}
{{- with .stopLimit }}{{ $pod = set $pod "stop_limit" . }}{{ end }}
{{- with .startLimit }}{{ $pod = set $pod "start_limit" . }}{{ end }}
{{- with .healthLimit }}{{ $pod = set $pod "health_limit" . }}{{ end }}
{{- $all = append $all $pod }}
{{- end }}
{{- end }}
{{- dict "pods" $all | toJson }}
{{- end }}

{{- define "backup.authorityMap" -}}
{{ .Values.name }}-authority
{{- end }}

{{- /* The names in the server's certificate. */}}
{{- define "backup.address" -}}
https://{{ .Values.name }}.{{ .Release.Namespace }}.svc:8443
{{- end }}

{{- define "backup.controllerConfig" -}}
{{- range $key := list "agents" "authority" "audience" "restore_pods" }}
{{- if hasKey (dig "kubernetes" dict $.Values.controller.config) $key }}{{ fail (printf "controller.config.kubernetes.%s is the chart's to write: use `agents` and `joins`" $key) }}{{ end }}
{{- end }}
{{- $name := .Values.name }}
{{- $namespace := .Release.Namespace }}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) }}
{{- $maps := list }}
{{- range (include "backup.namespaces" . | fromJson).namespaces }}
{{- $maps = append $maps (dict "namespace" . "config_map" (include "backup.authorityMap" $)) }}
{{- end }}
{{- /* A volume's own folder belongs to root and its group to us (fsGroup): what is private is in one of ours. */}}
{{- $own := dict "state" "/var/lib/neurashield/state" "grpc_names" $names "kubernetes" (dict "audience" "neurashield-backup" "agents" (include "backup.joins" . | fromJson).joins "authority" $maps) }}
{{- with (include "backup.restorePods" . | fromJson).pods }}{{ $_ := set $own.kubernetes "restore_pods" . }}{{ end }}
{{- if .Values.storage.backups.size }}{{ $own = set $own "repository" "/opt/neurashield/backups" }}{{ end }}
{{- if .Values.ingress.enabled }}{{ $own = set $own "web" (dict "path" .Values.ingress.path "hosts" (list .Values.ingress.host)) }}{{ end }}
{{- with .Values.controller.passphrase }}{{ if .secret }}{{ $own = set $own "key" (dict "passphrase_file" "/etc/neurashield/passphrase/passphrase") }}{{ end }}{{ end }}
{{- toYaml (mustMergeOverwrite $own (deepCopy .Values.controller.config)) }}
{{- end }}

{{- /* Variables from secrets. */}}
{{- define "backup.environment" -}}
{{- range $variable, $from := . }}
- name: {{ $variable }}
  valueFrom: { secretKeyRef: { name: {{ $from.secret | quote }}, key: {{ $from.key | quote }} } }
{{- end }}
{{- end }}

{{- /* What an agent joins by: a token of its service account that counts for the controller alone, and the
       certificate by which it knows the controller. */}}
{{- define "backup.joinVolume" -}}
name: join
projected:
  # Whoever the container runs as: it alone has this volume. Where all containers run as one user the kubelet gives
  # the token to that user alone.
  defaultMode: 0444
  sources:
    - serviceAccountToken: { path: token, audience: neurashield-backup, expirationSeconds: 3600 }
    - configMap: { name: {{ include "backup.authorityMap" . }}, optional: true, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}

{{- /* For whoever asks the API server: its token, and the certificate by which it knows it. */}}
{{- define "backup.accountVolume" -}}
name: account
projected:
  defaultMode: 0444
  sources:
    - serviceAccountToken: { path: token, expirationSeconds: 3600 }
    - configMap: { name: kube-root-ca.crt, items: [{ key: ca.crt, path: ca.crt }] }
    - downwardAPI: { items: [{ path: namespace, fieldRef: { fieldPath: metadata.namespace } }] }
{{- end }}

{{- /* Ports as NetworkPolicies have them: TCP, of DNS also UDP. */}}
{{- define "backup.dnsPorts" -}}
{{- range . }}
- { port: {{ . }}, protocol: UDP }
- { port: {{ . }}, protocol: TCP }
{{- end }}
{{- end }}
{{- define "backup.ports" -}}
{{- range . | uniq }}
- { port: {{ . }}, protocol: TCP }
{{- end }}
{{- end }}

{{- /* The rules of `neurashield-agent-workloads`, `…-pod-env` and `…-own-pod` in deploy/manifests/agent-roles.yaml,
       which a test holds against these. */}}
{{- define "backup.workloadRules" -}}
[{ "apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "list", "patch"] },
 { "apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"], "verbs": ["patch"] },
 { "apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["get", "list", "patch"] },
 { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
 { "apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["get"] },
 { "apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"] },
 { "apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list"] }]
{{- end }}
{{- define "backup.podEnvRules" -}}
[{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }]
{{- end }}
{{- define "backup.ownPodRules" -}}
[{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
 { "apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["get"] },
 { "apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"] }]
{{- end }}
