{{- define "slash24.labels" -}}
app.kubernetes.io/name: slash24
{{- end }}

{{- define "slash24.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "slash24.securityContext" -}}
securityContext:
  privileged: true
  readOnlyRootFilesystem: true
{{- end }}

{{- define "slash24.probes" -}}
livenessProbe:
  httpGet: {host: 127.0.0.1, port: {{ . }}, path: /healthz}
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: {host: 127.0.0.1, port: {{ . }}, path: /readyz}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "slash24.nodeEnv" -}}
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- with .Values.node.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "slash24.nodeMounts" -}}
volumeMounts:
  - {name: config, mountPath: /etc/slash24}
  - {name: run, mountPath: /run/slash24}
  - {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
  - {name: cni-bin, mountPath: /opt/cni/bin}
  - {name: cni-conf, mountPath: {{ .Values.paths.conf }}}
  - {name: cni-state, mountPath: /var/lib/cni}
{{- end }}
