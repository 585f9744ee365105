// Prints what RE2/J, the engine of Kafka's topic subscriptions, makes of patterns: `java -cp 'LIBS/*' Patterns.java` with the
// jars of a Kafka 4.3 distribution. Its output is `src/broker/group/consumer/patterns.txt`, which the tests there read: the
// names in the first line; then a pattern a line, and the error or which of the names it matches.

import com.google.re2j.*;

public class Patterns {
  public static void main(String[] a) throws Exception {
    String[] names={"foo","foobar","a","aa","a.b","a-b","a_b","A","Foo1","x+y","bar123","&","[","{","a{1","-","x[y","a{,2}","FOO","0","az", "a&b"};
    System.out.println(String.join("\t", names));
    for (String p: new String[]{"foo.*","^foo$","fo{1,2}","(?i)foo","a{,2}","a{","a{1","x{1001}","x{1000}","(foo","foo)","[a","[]a]","[a]]","[[]","[^]a]","*a","a**","a*+","a++","a?+","a??","\\Qx+y\\E","\\Qa.b","\\pL+","\\p{L}+","\\p{Lu}","\\PL","\\p{Greek}","\\p{IsL}","\\d+","\\w+","\\s","\\b","\\Bfoo","\\A","foo\\z","foo\\Z","\\C","\\x41","\\x{41}","\\101","\\1","(a)\\1","(?=a)","(?!a)","(?<=a)","(?<n>foo)","(?P<n>foo)","(?P<1n>foo)","(?:foo|bar\\d+)","(?s).","(?m)^foo$","(?U)a+","(?x)a b","(?-i)foo","(?i:foo)","[a&&b]","[a--b]","[a-z&&[^b]]","[[:alpha:]]+","[[:word:]]+","[:alpha:]","[a-\\d]","[z-a]","\\","a\\","\\h","\\R","\\X","\\e","\\a","\\f","\\t","\\n","\\v","\\cA","\\u0041","\\-","\\_","\\&","\\<","","|","foo|","()","(?i)","(?i)[a-z]+","a|*","(*)","{","}","]","a{2}{3}","(a{500}){3}","((a{100}){10})","(a{100}){11}","[\\w-]+","[\\w-a]","[a-b-c]","[\\d]","[^\\d]+","\\p","\\p{","\\p{Foo}","[[:foo:]]","(?","(?i","(?z)","(?P","(?P=n)","(?P>n)","(?#c)","x*?","x{2,1}","x{2,}?","x{2}?","x{-1}","x{,}","x{1,2,3}","\\07","\\8","[\\b]","[\\Qa]\\E]","$a","a^b","(?-s).","(?i-s)Foo1","(?<n","(?<n>a)(?<n>b)"}) {
      StringBuilder s=new StringBuilder();
      try { Pattern c=Pattern.compile(p); for(String n:names) s.append(c.matcher(n).matches()?'1':'0'); }
      catch(PatternSyntaxException e){ s.append("error ").append(e.getDescription()); }
      System.out.println(p+"\t"+s);
    }
  }
}
