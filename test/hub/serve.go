// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request, cdn bool) {
	h.mu.Lock()
	h.requests = append(h.requests, Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"),
		Authorization: r.Header.Get("Authorization"), CDN: cdn, Header: r.Header.Clone(),
	})
	f := h.fault(r)
	h.mu.Unlock()
	if f != nil {
		if w = f.apply(w, r); w == nil {
			return
		}
	}
	if cdn {
		h.blob(w, r, digest.Digest(strings.TrimPrefix(r.URL.Path, "/")))
		return
	}
	if r.URL.Path == "/token" {
		h.token(w, r)
		return
	}
	if h.allowed(w, r) {
		h.route(w, r)
	}
}

func (h *Hub) route(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if path == "" {
		return
	}
	for kind, fn := range map[string]func(http.ResponseWriter, *http.Request, string, string){
		"/manifests/": h.manifests, "/blobs/uploads/": h.upload, "/referrers/": h.referrers,
	} {
		if i := strings.LastIndex(path, kind); i > 0 {
			fn(w, r, path[:i], path[i+len(kind):])
			return
		}
	}
	if i := strings.LastIndex(path, "/blobs/"); i > 0 {
		h.getBlob(w, r, path[:i], digest.Digest(path[i+len("/blobs/"):]))
		return
	}
	http.NotFound(w, r)
}

// refuse answers as the specification says.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"the hub says so"}]}`, code)
}

func (h *Hub) manifests(w http.ResponseWriter, r *http.Request, name, object string) {
	if r.Method == http.MethodPut {
		h.putManifest(w, r, name, object)
		return
	}
	h.mu.Lock()
	d := digest.Digest(object)
	repo := h.repository(name)
	if tagged, ok := repo.tags[object]; ok {
		d = tagged
	}
	m, ok := repo.manifests[d]
	h.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", fmt.Sprint(len(m.data)))
	if r.Method == http.MethodGet {
		w.Write(m.data)
	}
}

func (h *Hub) putManifest(w http.ResponseWriter, r *http.Request, name, object string) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d := digest.FromBytes(data)
	if want := digest.Digest(object); want.Validate() == nil && want != d {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	var doc struct {
		Config *ocispec.Descriptor
		Layers []ocispec.Descriptor
	}
	json.Unmarshal(data, &doc)
	h.mu.Lock()
	defer h.mu.Unlock()
	repo := h.repository(name)
	if doc.Config != nil {
		for _, c := range append(doc.Layers, *doc.Config) {
			if !repo.blobs[c.Digest] {
				refuse(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
				return
			}
		}
	}
	repo.manifests[d] = manifest{r.Header.Get("Content-Type"), data}
	if digest.Digest(object).Validate() != nil {
		repo.tags[object] = d
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (h *Hub) getBlob(w http.ResponseWriter, r *http.Request, name string, d digest.Digest) {
	h.mu.Lock()
	ok := h.repository(name).blobs[d]
	h.mu.Unlock()
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
	case h.cdn != nil && r.Method == http.MethodGet:
		http.Redirect(w, r, h.cdn.URL+"/"+d.String()+"?signature=secret", http.StatusTemporaryRedirect)
	default:
		h.blob(w, r, d)
	}
}

// blob sends a blob or a range of it.
func (h *Hub) blob(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	h.mu.Lock()
	data, ok := h.blobs[d]
	h.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	counted := &counter{ResponseWriter: w, hub: h}
	if h.opts.NoRanges {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method == http.MethodGet {
			counted.Write(data)
		}
		return
	}
	http.ServeContent(counted, r, "", time.Time{}, bytes.NewReader(data))
}

// counter counts what is sent of blobs.
type counter struct {
	http.ResponseWriter
	hub *Hub
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.hub.sent.Add(int64(n))
	return n, err
}

// upload is a blob on its way in.
type upload struct {
	repo string
	data bytes.Buffer
}

// takes reports whether bytes of a Content-Range go on where the upload is.
func (u *upload) takes(span string) bool {
	var from, to int
	n, _ := fmt.Sscanf(span, "%d-%d", &from, &to)
	return span == "" || n == 2 && from == u.data.Len() && to >= from
}

func (h *Hub) upload(w http.ResponseWriter, r *http.Request, name, id string) {
	if r.Method == http.MethodPost {
		h.begin(w, r, name)
		return
	}
	data, rerr := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.uploads[id]
	if u == nil || u.repo != name {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	}
	if !u.takes(r.Header.Get("Content-Range")) {
		h.where(w, name, id, u)
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	u.data.Write(data) // also what came before a cut
	if rerr != nil {
		panic(http.ErrAbortHandler)
	}
	switch r.Method {
	case http.MethodGet:
		h.where(w, name, id, u)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		h.where(w, name, id, u)
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		h.finish(w, r, u, id)
	case http.MethodDelete:
		delete(h.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	}
}

// where says how far an upload is and where it goes on.
func (h *Hub) where(w http.ResponseWriter, name, id string, u *upload) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id+"?state=opaque")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(u.data.Len()-1, 0)))
	w.Header().Set("Docker-Upload-UUID", id)
}

func (h *Hub) finish(w http.ResponseWriter, r *http.Request, u *upload, id string) {
	d := digest.Digest(r.URL.Query().Get("digest"))
	delete(h.uploads, id)
	if d.Validate() != nil || d.Algorithm().FromBytes(u.data.Bytes()) != d {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	h.blobs[d] = u.data.Bytes()
	h.repository(u.repo).blobs[d] = true
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

// begin starts an upload or mounts a blob from another repository.
func (h *Hub) begin(w http.ResponseWriter, r *http.Request, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := digest.Digest(r.URL.Query().Get("mount"))
	if from := r.URL.Query().Get("from"); from != "" && h.repository(from).blobs[d] {
		h.repository(name).blobs[d] = true
		w.WriteHeader(http.StatusCreated)
		return
	}
	h.number++
	id := fmt.Sprint("upload", h.number)
	h.uploads[id] = &upload{repo: name}
	h.where(w, name, id, h.uploads[id])
	w.WriteHeader(http.StatusAccepted)
}

func (h *Hub) referrers(w http.ResponseWriter, r *http.Request, name, object string) {
	if h.opts.NoReferrers {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	want := r.URL.Query().Get("artifactType")
	for d, m := range h.repository(name).manifests {
		var doc ocispec.Manifest
		if json.Unmarshal(m.data, &doc) != nil || doc.Subject == nil || doc.Subject.Digest.String() != object {
			continue
		}
		kind := doc.ArtifactType
		if kind == "" {
			kind = doc.Config.MediaType
		}
		if want == "" || want == kind {
			index.Manifests = append(index.Manifests, ocispec.Descriptor{
				MediaType: m.mediaType, Digest: d, Size: int64(len(m.data)), ArtifactType: kind, Annotations: doc.Annotations,
			})
		}
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	json.NewEncoder(w).Encode(index)
}

// allowed asks who does not say it.
func (h *Hub) allowed(w http.ResponseWriter, r *http.Request) bool {
	if h.opts.User == "" {
		return true
	}
	challenge := `Basic realm="hub"`
	if h.opts.Token {
		scope := ""
		if path, ok := strings.CutPrefix(r.URL.Path, "/v2/"); ok && path != "" {
			name, _, _ := strings.Cut(path, "/manifests/")
			name, _, _ = strings.Cut(name, "/blobs/")
			scope = fmt.Sprintf(`,scope="repository:%s:%s"`, name, map[bool]string{true: "pull", false: "pull,push"}[r.Method == http.MethodGet || r.Method == http.MethodHead])
		}
		challenge = fmt.Sprintf(`Bearer realm="%s/token",service="hub"%s`, h.main.URL, scope)
		h.mu.Lock()
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		_, known := h.tokens[token]
		h.mu.Unlock()
		if ok && known {
			return true
		}
	} else if user, password, ok := r.BasicAuth(); ok && user == h.opts.User && password == h.opts.Password {
		return true
	}
	w.Header().Set("WWW-Authenticate", challenge)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

// token hands out a token: by GET with Basic, or by POST as OAuth2 does. The
// password serves as the refresh token as well.
func (h *Hub) token(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	scope := r.URL.Query().Get("scope")
	if r.Method == http.MethodPost {
		r.ParseForm()
		user, password, ok, scope = h.posted(r.PostForm)
	}
	if !ok || user != h.opts.User || password != h.opts.Password {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	h.mu.Lock()
	h.number++
	token := fmt.Sprint("token", h.number)
	h.tokens[token] = scope
	h.mu.Unlock()
	json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func (h *Hub) posted(form url.Values) (user, password string, ok bool, scope string) {
	scope = form.Get("scope")
	if form.Get("grant_type") == "refresh_token" {
		return h.opts.User, form.Get("refresh_token"), true, scope
	}
	return form.Get("username"), form.Get("password"), true, scope
}
