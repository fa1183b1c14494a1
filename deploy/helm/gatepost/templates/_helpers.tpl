{{/* Templates whose names begin with `gatepost.` may be used by a chart that has this one in mode `parts`:

       initContainers:
         {{- include "gatepost.sidecar" .Subcharts.gatepost | nindent 8 }}
       volumes:
         {{- include "gatepost.volume" .Subcharts.gatepost | nindent 8 }}

     and its pods have the labels of "gatepost.selectorLabels". */}}

{{- define "gatepost.fullname" -}}
{{- if contains "gatepost" .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-gatepost" (.Release.Name | trunc 43 | trimSuffix "-") }}
{{- end -}}
{{- end -}}

{{- define "gatepost.selectorLabels" -}}
app.kubernetes.io/name: gatepost
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gatepost.labels" -}}
{{ include "gatepost.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gatepost.usersSecret" -}}
{{- if .Values.users.existingSecret -}}
{{ .Values.users.existingSecret }}
{{- else if .Values.users.htpasswd -}}
{{ include "gatepost.fullname" . }}-users
{{- end -}}
{{- end -}}

{{- define "gatepost.adminSecret" -}}
{{ .Values.admin.existingSecret | default (printf "%s-admin" (include "gatepost.fullname" .)) }}
{{- end -}}

{{/* A port number of `listen: ADDRESS:PORT`. */}}
{{- define "gatepost.portOf" -}}
{{ regexFind "[0-9]+$" . }}
{{- end -}}

{{- define "gatepost.port" -}}
{{ include "gatepost.portOf" (first .Values.config.listeners).listen }}
{{- end -}}

{{- define "gatepost.adminPort" -}}
{{ include "gatepost.portOf" .Values.config.admin.listen }}
{{- end -}}

{{/* What the schema cannot say. Whatever is here would be found out in the cluster otherwise. */}}
{{- define "gatepost.checks" -}}
{{- range .Values.config.listeners -}}
  {{- if and (not (hasPrefix "unix:" .listen)) (regexMatch "^(127\\.|\\[::1\\])" .listen) -}}
    {{- fail (printf "config.listeners: %s is reached by nobody outside of the pod" .listen) -}}
  {{- end -}}
{{- end -}}
{{- if hasPrefix "unix:" (first .Values.config.listeners).listen -}}
  {{- fail "config.listeners: the first one is the Service's, and needs a port" -}}
{{- end -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" .Values.config.admin.listen -}}
  {{- fail "config.admin.listen: the kubelet's probes come to the pod's address, so loopback does not do" -}}
{{- end -}}
{{- if not (or .Values.admin.token .Values.admin.existingSecret) -}}
  {{- fail "admin.token or admin.existingSecret is required: beyond loopback the admin listener needs a token" -}}
{{- end -}}
{{- if and .Values.admin.token .Values.admin.existingSecret -}}
  {{- fail "admin.token and admin.existingSecret are two tokens" -}}
{{- end -}}
{{- if and .Values.users.htpasswd .Values.users.existingSecret -}}
  {{- fail "users.htpasswd and users.existingSecret are two lists of users" -}}
{{- end -}}
{{- if not (or .Values.policy .Values.users.htpasswd .Values.users.existingSecret) -}}
  {{- fail "users.htpasswd or users.existingSecret is required, or a policy of your own" -}}
{{- end -}}
{{- if eq .Values.mode "sidecar" -}}
  {{- if .Values.autoscaling.enabled -}}
    {{- fail "autoscaling is for mode standalone: an MTA that is taken away takes its spool with it" -}}
  {{- end -}}
  {{- $address := (include "gatepost.configuration" . | fromYaml).upstream.address -}}
  {{- range (kindIs "slice" $address | ternary $address (list $address)) -}}
    {{- if not (regexMatch "^((https?://)?(127\\.|localhost:|\\[::1\\])|unix:)" .) -}}
      {{- fail (printf "config.upstream.address: %s is not in the pod, where the MTA of mode sidecar is" .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* What the MTA's readiness probe asks for; nothing where that is off, which YAML also reads as false. */}}
{{- define "gatepost.readinessPath" -}}
{{- $path := .Values.mta.container.readinessPath -}}
{{- if and $path (ne $path "off") -}}
{{ $path }}
{{- end -}}
{{- end -}}

{{/* gatepost.yaml, with the defaults that depend on the mode. */}}
{{- define "gatepost.configuration" -}}
{{- $config := deepCopy .Values.config -}}
{{- if ne .Values.mode "standalone" -}}
  {{- if not $config.upstream.address -}}
    {{- $_ := set $config.upstream "address" "127.0.0.1:8000" -}}
  {{- end -}}
  {{- $config = merge $config (dict "drain_delay" "0s" "drain_timeout" "5s") -}}
  {{- with include "gatepost.readinessPath" . -}}
    {{- $route := dict "path" . "methods" (list "GET") "allow" (list "anyone") -}}
    {{- $_ := set $config "routes" (append $config.routes $route) -}}
  {{- end -}}
{{- else -}}
  {{- $config = merge $config (dict "drain_delay" "5s" "drain_timeout" "20s") -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{- define "gatepost.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The item of a list of containers. */}}
{{- define "gatepost.container" -}}
- name: gatepost
  image: {{ include "gatepost.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/bin/gatepost]
  args: [run, --config, /etc/gatepost/gatepost.yaml]
  {{- with .Values.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- range $index, $listener := .Values.config.listeners }}
    {{- if not (hasPrefix "unix:" $listener.listen) }}
    - name: gatepost{{ if $index }}-{{ $index }}{{ end }}
      containerPort: {{ include "gatepost.portOf" $listener.listen }}
    {{- end }}
    {{- end }}
    - name: gatepost-admin
      containerPort: {{ include "gatepost.adminPort" . }}
  startupProbe:
    httpGet: { path: /readyz, port: gatepost-admin }
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: { path: /readyz, port: gatepost-admin }
    periodSeconds: 5
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet: { path: /livez, port: gatepost-admin }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities: { drop: [ALL] }
    seccompProfile: { type: RuntimeDefault }
  volumeMounts:
    - { name: gatepost, mountPath: /etc/gatepost, readOnly: true }
{{- end -}}

{{/* The item of a list of init containers: it starts before the MTA, is restarted by itself, and ends after it. */}}
{{- define "gatepost.sidecar" -}}
{{ include "gatepost.container" . }}
  restartPolicy: Always
{{- end -}}

{{/* The item of a list of volumes: one folder for all, so that paths in the configuration are relative to it. */}}
{{- define "gatepost.volume" -}}
- name: gatepost
  projected:
    sources:
      - configMap: { name: {{ include "gatepost.fullname" . }} }
      {{- with include "gatepost.usersSecret" . }}
      - secret:
          name: {{ . }}
          items: [{ key: htpasswd, path: users/htpasswd }]
      {{- end }}
      - secret:
          name: {{ include "gatepost.adminSecret" . }}
          items: [{ key: token, path: admin/token }]
      {{- with .Values.extraSources }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* What pods have in both modes. */}}
{{- define "gatepost.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "gatepost.selectorLabels" . | nindent 8 }}
{{- end -}}
