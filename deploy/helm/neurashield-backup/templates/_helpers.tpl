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

{{- define "backup.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .group | default .user }}
fsGroup: {{ .group | default .user }}
{{- /* A volume with millions of files is not walked at each start. */}}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- /* Every agent that may join by its service account: those of the chart and those in pods of yours. */}}
{{- define "backup.joins" -}}
{{- $release := .Release.Namespace }}
{{- $all := list }}
{{- range .Values.agents }}
{{- $node := eq (.kind | default "Deployment") "DaemonSet" }}
{{- $rule := dict "namespace" (.namespace | default $release) "service_account" (printf "backup-agent-%s" .name) "name" (ternary (printf "%s-*" .name) .name $node) "sources" (.sources | default list) }}
{{- $all = append $all $rule }}
{{- end }}
{{- range .Values.joins }}
{{- $rule := dict "namespace" .namespace "service_account" .serviceAccount "name" .name "sources" (.sources | default list) }}
{{- $all = append $all $rule }}
{{- end }}
{{- dict "joins" $all | toJson }}
{{- end }}

{{- /* The namespaces of agents. In each lies a config map with the certificate of the controller's authority. */}}
{{- define "backup.namespaces" -}}
{{- $all := list .Release.Namespace }}
{{- range (include "backup.joins" . | fromJson).joins }}{{ $all = append $all .namespace }}{{ end }}
{{- dict "namespaces" ($all | uniq | sortAlpha) | toJson }}
{{- end }}

{{- define "backup.authorityMap" -}}
{{ .Values.name }}-authority
{{- end }}

{{- /* The names in the server's certificate. */}}
{{- define "backup.address" -}}
https://{{ .Values.name }}.{{ .Release.Namespace }}.svc:8443
{{- end }}

{{- define "backup.controllerConfig" -}}
{{- $name := .Values.name }}
{{- $namespace := .Release.Namespace }}
{{- $names := list $name (printf "%s.%s" $name $namespace) (printf "%s.%s.svc" $name $namespace) (printf "%s.%s.svc.cluster.local" $name $namespace) }}
{{- $maps := list }}
{{- range (include "backup.namespaces" . | fromJson).namespaces }}
{{- $maps = append $maps (dict "namespace" . "config_map" (include "backup.authorityMap" $)) }}
{{- end }}
{{- /* A volume's own folder belongs to root and its group to us (fsGroup): what is private is in one of ours. */}}
{{- $own := dict "state" "/var/lib/neurashield/state" "grpc_names" $names "kubernetes" (dict "audience" "neurashield-backup" "agents" (include "backup.joins" . | fromJson).joins "authority" $maps) }}
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
  defaultMode: 0440
  sources:
    - serviceAccountToken: { path: token, audience: neurashield-backup, expirationSeconds: 3600 }
    - configMap: { name: {{ include "backup.authorityMap" . }}, optional: true, items: [{ key: ca.crt, path: ca.crt }] }
{{- end }}
