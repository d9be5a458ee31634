package layer
import ("testing";"os";"path/filepath";"context";"time";"runtime";"archive/tar";"fmt";"io")
func TestZZGo(t *testing.T){
 l,_:=filepath.Glob(runtime.GOROOT()+"/src/archive/tar/testdata/*.tar")
 for _,p:=range l { f,_:=os.Open(p); d:=t.TempDir(); s:=time.Now(); _,err:=Apply(context.Background(),d,f,ApplyOptions{}); f.Close()
  el:=time.Since(s)
  t.Logf("%s %v %v", filepath.Base(p), el.Round(time.Millisecond), err)}
}
func TestZZMillion(t *testing.T){
 n:=1000000
 pr,pw:=io.Pipe()
 go func(){ tw:=tar.NewWriter(pw); for i:=range n { if i%100==0 {tw.WriteHeader(&tar.Header{Typeflag:tar.TypeDir,Name:fmt.Sprintf("d%d/",i/100),Mode:0o755,ModTime:epoch})}; tw.WriteHeader(&tar.Header{Typeflag:tar.TypeReg,Name:fmt.Sprintf("d%d/f%d",i/100,i),Mode:0o644,Size:3,ModTime:epoch}); tw.Write([]byte("abc"))}; tw.Close(); pw.Close()}()
 d:=t.TempDir(); s:=time.Now()
 r,err:=Apply(context.Background(),d,pr,ApplyOptions{}); t.Log(r,err,time.Since(s))
 s=time.Now(); q,err:=Diff(context.Background(),nil,d,DiffOptions{}); t.Log(q,err,time.Since(s))
 s=time.Now(); r2,_:=os.ReadFile("/proc/self/status"); t.Log(string(r2)[400:900])
}
