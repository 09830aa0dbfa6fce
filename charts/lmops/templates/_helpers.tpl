{{/* The labels of everything. */}}
{{- define "lmops.labels" -}}
{{- $own := dict
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version)
-}}
{{- merge (include "lmops.selector" . | fromYaml) $own .Values.labels | toYaml -}}
{{- end }}

{{/* The labels by which the operator's pods are found. */}}
{{- define "lmops.selector" -}}
app.kubernetes.io/name: lmops-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* An image of the values: the registry before it, and after it this version where it has no tag and no digest. */}}
{{- define "lmops.operatorImage" -}}{{ include "lmops.image" (list . .Values.images.operator) }}{{- end }}
{{- define "lmops.compressorImage" -}}{{ include "lmops.image" (list . .Values.images.compressor) }}{{- end }}
{{- define "lmops.serverImage" -}}{{ include "lmops.image" (list . .Values.images.server) }}{{- end }}
{{- define "lmops.vllmImage" -}}{{ with .Values.images.vllm }}{{ include "lmops.image" (list $ .) }}{{ end }}{{- end }}
{{- define "lmops.trainerImage" -}}{{ include "lmops.image" (list . .Values.images.trainer) }}{{- end }}
{{- define "lmops.image" -}}
{{- $root := first . -}}{{- $name := last . -}}
{{- with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $name }}{{ if not (regexMatch "@|:[^/]+$" $name) }}:{{ $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* The settings: what the chart knows, and what the values say. */}}
{{- define "lmops.settings" -}}
{{- $known := dict
  "trainerImage" (include "lmops.trainerImage" .)
  "compressorImage" (include "lmops.compressorImage" .)
  "serverImage" (include "lmops.serverImage" .)
  "vllmImage" (include "lmops.vllmImage" .)
  "namespace" .Release.Namespace
  "namespaces" .Values.watchNamespaces
-}}
{{- if .Values.openshift }}{{ $known = set $known "user" nil }}{{ end -}}
{{- merge $known .Values.settings | toYaml -}}
{{- end }}

{{/* What the operator does in a namespace with jobs. */}}
{{- define "lmops.rules" -}}
- apiGroups: [lmops.dev]
  resources: [trainingjobs, quantizejobs, languagemodelservices]
  verbs: [get, list, watch]
- apiGroups: [lmops.dev]
  resources: [trainingjobs/status, quantizejobs/status, languagemodelservices/status]
  verbs: [patch]
# Some clusters, OpenShift among them, want this of one who makes children that block their owner's deletion.
- apiGroups: [lmops.dev]
  resources: [trainingjobs/finalizers, quantizejobs/finalizers, languagemodelservices/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [get, list, watch, create, delete]
# What is kept as it is written is patched, and is created that way too.
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices]
  verbs: [get, list, watch, create, patch, delete]
# What leads to a service from outside.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
# What watches a service.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, list, watch, create, patch]
{{- if dig "monitoring" "dashboards" true .Values.settings }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# The list is for the words of those who could not make a job's pods.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]
# To tell a job whose queue nobody serves.
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [get]
{{- end }}
